"""How prompts share a pass's rows. Pure Python without torch: asked by the scheduler, and by ``benchmarks.fleet``, which simulates one.

Invariant: nobody gets more than it lacks, all together no more than there is, and rows are left only where nobody lacks any.
"""

from __future__ import annotations

from collections.abc import Sequence


def prompt_shares(lens: Sequence[int], budget: int) -> list[int]:
    """Parts of ``budget`` for prompts of these lengths, in order of arrival.

    Half is shared evenly, so that a short prompt does not wait for a long one; the rest goes to the first in line, so that of
    many long ones some end early.
    """
    shares = [0] * len(lens)
    even, num_left = budget // 2, sum(length > 0 for length in lens)
    for index in sorted(range(len(lens)), key=lambda index: lens[index]):
        if lens[index] > 0:
            shares[index] = min(lens[index], even // num_left)
            even -= shares[index]
            num_left -= 1
    left = budget - sum(shares)
    for index, length in enumerate(lens):
        more = min(length - shares[index], left)
        shares[index] += more
        left -= more
    return shares

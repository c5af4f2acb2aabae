"""Hidden states of a pass as the bytes that travel, and back: the one place where they are rounded to bfloat16.

Used by the LLM service, which sends them, by the SSM service, and by training, so that an SSM is trained on what it is served.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from specgrove.loop.verifier_knowledge import HiddenStates


def rounded(states: torch.Tensor) -> torch.Tensor:
    """bfloat16, to the nearest, ties to even."""
    return states.to(torch.bfloat16)


class PassValues:
    """Of all rows of a pass, rounded at once: a torch call takes tens of microseconds, whatever the number of rows and sessions."""

    def __init__(self, hidden: Sequence[torch.Tensor]) -> None:
        """``hidden`` is ``[num_rows, hidden_size]`` for each layer, on any device."""
        self._values = rounded(torch.stack(tuple(hidden), dim=1)).cpu().view(torch.int16).numpy()

    def of(self, rows: Sequence[int], places: Sequence[int]) -> bytes:
        """``HiddenStates.values`` of these rows, at the layers that stand at ``places``."""
        of_rows = self._values[list(rows)]
        is_all = len(places) == self._values.shape[1]
        return (of_rows if is_all else of_rows[:, list(places)]).tobytes()


def tensor_of(states: HiddenStates) -> torch.Tensor:
    """float32 ``[num_tokens, num_layers * hidden_size]``, layers rising."""
    values = torch.frombuffer(bytearray(states.values), dtype=torch.bfloat16)
    return values.view(states.num_tokens, -1).float()

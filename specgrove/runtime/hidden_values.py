"""Hidden states of a pass as the bytes that travel, and back: the one place where they are rounded to bfloat16.

Used by the LLM service, which sends them, by the SSM service, and by training, so that an SSM is trained on what it is served.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from specgrove.loop.verifier_knowledge import HiddenStates

# Rows that are rounded together: more than trees have, fewer than a prompt's chunk.
_MAX_NUM_ROWS_AT_ONCE = 128


def rounded(states: torch.Tensor) -> torch.Tensor:
    """bfloat16, to the nearest, ties to even."""
    return states.to(torch.bfloat16)


class PassValues:
    """Of the rows of a pass. Those of a small one are rounded at once: a torch call takes tens of microseconds, whatever the number of rows
    and sessions. Of a large one, as with a prompt's chunk, few are told, and these alone are read.
    """

    def __init__(self, hidden: Sequence[torch.Tensor]) -> None:
        """``hidden`` is ``[num_rows, hidden_size]`` for each layer, on any device."""
        self._hidden = tuple(hidden)
        is_small = len(self._hidden[0]) <= _MAX_NUM_ROWS_AT_ONCE
        self._values = _values_of(self._hidden) if is_small else None

    def of(self, rows: Sequence[int], places: Sequence[int]) -> bytes:
        """``HiddenStates.values`` of these rows, at the layers that stand at ``places``."""
        if self._values is None:
            return _values_of([self._hidden[place][list(rows)] for place in places]).tobytes()
        of_rows = self._values[list(rows)]
        is_all = len(places) == self._values.shape[1]
        return (of_rows if is_all else of_rows[:, list(places)]).tobytes()


def _values_of(hidden: Sequence[torch.Tensor]) -> NDArray[np.int16]:
    """The bits of bfloat16, ``[num_rows, num_layers, hidden_size]``."""
    return rounded(torch.stack(tuple(hidden), dim=1)).cpu().view(torch.int16).numpy()


def tensor_of(states: HiddenStates) -> torch.Tensor:
    """float32 ``[num_tokens, num_layers * hidden_size]``, layers rising."""
    values = torch.frombuffer(bytearray(states.values), dtype=torch.bfloat16)
    return values.view(states.num_tokens, -1).float()

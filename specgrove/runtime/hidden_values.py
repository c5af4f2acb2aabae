"""Hidden states of a pass as the bytes that travel, and back: where they are rounded to bfloat16, to the nearest, ties to even.

Used by the LLM service, which sends them, by the SSM service, and by training, so that an SSM is trained on what it is served.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from specgrove.kernels import _native
from specgrove.loop.verifier_knowledge import HiddenStates

# Rows that are rounded together: more than trees have, fewer than a prompt's chunk.
_MAX_NUM_ROWS_AT_ONCE = 128


def rounded(states: torch.Tensor) -> torch.Tensor:
    """bfloat16, to the nearest, ties to even."""
    return states.to(torch.bfloat16)


class PassValues:
    """Of the rows of a pass, those that are asked for; on the CPU without torch, of which each call takes tens of microseconds.

    On a device those of a small pass are rounded and copied at once, whatever the number of sessions that ask. Of a large one, as with a
    prompt's chunk, few are told, and these alone are read.
    """

    def __init__(self, hidden: Sequence[torch.Tensor]) -> None:
        """``hidden`` is ``[num_rows, hidden_size]`` for each layer, on any device."""
        self._hidden = tuple(hidden)
        self._num_rows, self._width = hidden[0].shape
        is_native = all(_is_native(part) for part in hidden)
        self._addresses = tuple(part.data_ptr() for part in hidden) if is_native else ()
        is_small = self._num_rows <= _MAX_NUM_ROWS_AT_ONCE
        self._values = _values_of(self._hidden) if is_small and not is_native else None

    def of(self, rows: Sequence[int], places: Sequence[int]) -> bytes:
        """``HiddenStates.values`` of these rows, at the layers at ``places``, rising. Raises ``IndexError`` for rows that aren't there."""
        if self._addresses:
            if any(not 0 <= row < self._num_rows for row in rows):
                raise IndexError(f"hidden states are asked for of rows {list(rows)}; the pass has {self._num_rows}")
            return _native.bfloat16_rows([self._addresses[place] for place in places], self._width, list(rows))
        if self._values is None:
            return _values_of([self._hidden[place][list(rows)] for place in places]).tobytes()
        of_rows = self._values[list(rows)]
        is_all = len(places) == self._values.shape[1]
        return (of_rows if is_all else of_rows[:, list(places)]).tobytes()


def _is_native(part: torch.Tensor) -> bool:
    return part.device.type == "cpu" and part.dtype == torch.float32 and part.is_contiguous()


def _values_of(hidden: Sequence[torch.Tensor]) -> NDArray[np.int16]:
    """The bits of bfloat16, ``[num_rows, num_layers, hidden_size]``."""
    return rounded(torch.stack(tuple(hidden), dim=1)).cpu().view(torch.int16).numpy()


def tensor_of(states: HiddenStates) -> torch.Tensor:
    """float32 ``[num_tokens, num_layers * hidden_size]``, layers rising."""
    values = torch.frombuffer(bytearray(states.values), dtype=torch.bfloat16)
    return values.view(states.num_tokens, -1).float()

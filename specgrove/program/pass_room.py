"""Memory of a pass on a GPU: the program's buffers, and the places where logits and hidden states are handed out.

Made for one pass, or kept for all within limits: graphs write there again and again. Owned by whoever runs the program.
"""

from __future__ import annotations

import torch

from specgrove.program.ops import Buffer, Choose, KeepHidden, Program


class PassRoom:
    """For passes of up to so many rows, and asked rows."""

    def __init__(self, program: Program, max_num_rows: int, max_num_asked: int, device: torch.device) -> None:
        self._max_num_rows = max(max_num_rows, max_num_asked)
        self._widths = [spec.width for spec in program.buffers]
        self._buffers = [
            torch.empty(
                self._max_num_rows * spec.width, dtype=program.dtype if spec.is_input else torch.float32, device=device
            )
            for spec in program.buffers
        ]
        vocab_size = sum(sum(op.widths) for op in program.ops if isinstance(op, Choose))
        self.logits = torch.empty(max_num_asked, vocab_size, device=device)
        """float32 ``[max_num_asked, vocab_size]``; no columns where the program has no head."""
        self.kept = tuple(
            torch.empty(max_num_rows, op.width, device=device) for op in program.ops if isinstance(op, KeepHidden)
        )
        """float32 ``[max_num_rows, width]``: what each ``KeepHidden`` hands out, by its place."""

    @property
    def nbytes(self) -> int:
        """Bytes on the device; but for ``kept``, ``RoomSizes.num_bytes`` says them beforehand."""
        return sum(tensor.nbytes for tensor in (*self._buffers, self.logits, *self.kept))

    def width(self, buffer: Buffer) -> int:
        """The most numbers of a row there."""
        return self._widths[buffer]

    def view(self, buffer: Buffer, num_rows: int, width: int) -> torch.Tensor:
        """Its beginning as ``[num_rows, width]``, without gaps between the rows."""
        return self._buffers[buffer][: num_rows * width].view(num_rows, width)

    def all_rows(self, buffer: Buffer, width: int) -> torch.Tensor:
        """``[as many rows as there is room for, width]``."""
        return self.view(buffer, self._max_num_rows, width)

"""Memory of a pass on a GPU: the program's buffers, and the places where logits and hidden states are handed out.

Made for one pass, or kept for all within limits: graphs write there again and again. Owned by whoever runs the program.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from specgrove.program.backend import Candidates
from specgrove.program.op import Buffer
from specgrove.program.program import Program


@dataclass(frozen=True, slots=True)
class Shortlisted:
    """Where ``Shortlist`` hands out: what ``specgrove.kernels.torch_shortlist.shortlist`` gives."""

    places: torch.Tensor
    logits: torch.Tensor
    log_sum_exp: torch.Tensor

    @classmethod
    def room(cls, num_rows: int, num_candidates: int, device: torch.device) -> Shortlisted:
        """For so many rows."""
        places = torch.empty(num_rows, num_candidates, dtype=torch.int64, device=device)
        return cls(places, *(torch.empty(shape, device=device) for shape in (places.shape, num_rows)))

    @property
    def nbytes(self) -> int:
        """Bytes on the device."""
        return self.places.nbytes + self.logits.nbytes + self.log_sum_exp.nbytes


class PassRoom:
    """For passes of up to so many rows, and asked rows."""

    def __init__(self, program: Program, max_num_rows: int, max_num_asked: int, device: torch.device) -> None:
        self._max_num_rows = max(max_num_rows, max_num_asked)
        self._buffers = [
            torch.empty(
                self._max_num_rows * spec.width, dtype=program.dtype if spec.is_input else torch.float32, device=device
            )
            for spec in program.buffers
        ]
        self.logits = torch.empty(max_num_asked, program.vocab_size, device=device)
        """float32 ``[max_num_asked, vocab_size]``; no columns where the program has no head."""
        self.kept = tuple(
            torch.empty(max_num_asked if kept.is_of_asked else max_num_rows, kept.width, device=device)
            for kept in program.kept
        )
        """float32, what each ``KeepHidden`` hands out, by its place: ``[max_num_rows, width]``, or behind ``TakeRows`` of asked rows."""
        self._shortlist = program.shortlist
        shape = (0, 0) if self._shortlist is None else (max_num_asked, self._shortlist.num_candidates)
        self.shortlisted = Shortlisted.room(*shape, device)

    def candidates(self) -> Candidates | None:
        """What the program's ``Shortlist`` handed out, if it has one."""
        if self._shortlist is None:
            return None
        found = self.shortlisted
        return Candidates.at(self._shortlist, found.places.cpu(), found.logits.cpu(), found.log_sum_exp.cpu())

    @property
    def nbytes(self) -> int:
        """Bytes on the device. ``RoomSizes.num_bytes`` says them beforehand, ``handed_out_bytes`` those of ``kept``."""
        return sum(tensor.nbytes for tensor in (*self._buffers, self.logits, *self.kept)) + self.shortlisted.nbytes

    def view(self, buffer: Buffer, num_rows: int, width: int) -> torch.Tensor:
        """Its beginning as ``[num_rows, width]``, without gaps between the rows."""
        return self._buffers[buffer][: num_rows * width].view(num_rows, width)

    def all_rows(self, buffer: Buffer, width: int) -> torch.Tensor:
        """``[as many rows as there is room for, width]``."""
        return self.view(buffer, self._max_num_rows, width)

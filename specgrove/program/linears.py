"""What a program knows of a linear. Each backend has linears of its own, made by its ``WeightStore``."""

from __future__ import annotations

from typing import Protocol


class Linear(Protocol):
    """``x @ weight.T + bias``, plain or quantised."""

    in_features: int
    out_features: int

    @property
    def nbytes(self) -> int:
        """Bytes of the weights, with scales and mins where there are any."""
        ...

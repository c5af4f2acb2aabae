"""What a program knows of a linear. Each backend has linears of its own, made by its ``WeightStore``."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol


class Linear(Protocol):
    """``x @ weight.T + bias``, plain or quantised."""

    in_features: int
    out_features: int

    @property
    def nbytes(self) -> int:
        """Bytes of the weights, with scales and mins where there are any."""
        ...


def check_linears(linears: Iterable[Linear], kinds: type[object] | tuple[type[object], ...], backend: str) -> None:
    """Raises ``ValueError`` for one that ``backend`` can't run: it is another store's."""
    for linear in linears:
        if not isinstance(linear, kinds):
            raise ValueError(
                f"{type(linear).__name__} is no linear of {backend}: a program's weights are those of its own store"
            )

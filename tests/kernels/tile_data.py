"""Products of two tiles, and data for them of the kinds that bring out how a processor rounds."""

from __future__ import annotations

from collections.abc import Callable

import torch

from specgrove.kernels import _native

Make = Callable[[int, int, torch.Generator], torch.Tensor]


def normal(rows: int, columns: int, generator: torch.Generator) -> torch.Tensor:
    return torch.randn(rows, columns, generator=generator)


def scaled(low: int, high: int) -> Make:
    """Numbers of all exponents of two from low to high."""

    def make(rows: int, columns: int, generator: torch.Generator) -> torch.Tensor:
        exponents = torch.randint(low, high + 1, (rows, columns), generator=generator)
        return (normal(rows, columns, generator).double() * 2.0**exponents).float()

    return make


def sprinkled(make: Make, *values: float) -> Make:
    """An eighth of the numbers replaced by these."""

    def made(rows: int, columns: int, generator: torch.Generator) -> torch.Tensor:
        which = torch.randint(0, len(values), (rows, columns), generator=generator)
        is_replaced = torch.randint(0, 8, (rows, columns), generator=generator) == 0
        return torch.where(is_replaced, torch.tensor(values)[which], make(rows, columns, generator))

    return made


INF, NAN, TINY = float("inf"), float("nan"), 2.0**-126

KINDS: dict[str, Make] = {
    "normal": normal,
    "wide": scaled(-40, 40),
    "small integers": lambda rows, columns, generator: normal(rows, columns, generator).round(),  # sums that cancel
    "around the smallest": scaled(-66, -60),  # products that are denormal, and those that are not
    "denormal": sprinkled(scaled(-131, -124), 0.0, -0.0, 1.0, TINY),
    "overflow": scaled(55, 70),
    "infinities": sprinkled(normal, INF, -INF, 0.0, -0.0),
    "NaN": sprinkled(normal, NAN, INF, 0.0),
}


def product_bf16(a: torch.Tensor, b: torch.Tensor, c: torch.Tensor) -> torch.Tensor:
    """``c + a @ b`` of bfloat16 ``[rows, inputs]`` and ``[inputs, outputs]``, float32 ``[rows, outputs]``."""
    inputs, outputs = b.shape
    pairs = b.view(inputs // 2, 2, outputs).transpose(1, 2).contiguous()
    a, out = a.contiguous(), c.clone()
    _native.tile_product_bf16(a.data_ptr(), pairs.data_ptr(), out.data_ptr(), a.shape[0], inputs // 2, outputs)
    return out


def product_s8(a: torch.Tensor, b: torch.Tensor, c: torch.Tensor) -> torch.Tensor:
    """The same of int8, with sums in int32."""
    inputs, outputs = b.shape
    fours = b.view(inputs // 4, 4, outputs).transpose(1, 2).contiguous()
    a, out = a.contiguous(), c.clone()
    _native.tile_product_s8(a.data_ptr(), fours.data_ptr(), out.data_ptr(), a.shape[0], inputs // 4, outputs)
    return out

"""The kernels' bits are those that ``ARITHMETIC`` stands for. Where they change on purpose, count it up and write new digests here."""

from __future__ import annotations

import hashlib

import torch

from specgrove.kernels.arithmetic import ARITHMETIC
from specgrove.kernels.linear import PackedLinear
from specgrove.kernels.quantized_linear import QuantizedLinear, QuantizedWeight
from tests.kernels.one_op import activate, attend, norm
from tests.kernels.test_row_invariance import rows_of

_DIGESTS = {  # of ARITHMETIC 2
    "amx": "a9b8c16a984f9791",
    "avx512": "bce74d0323f51195",
    "avx2": "12f202cc8c88fefb",
    "plain": "a2e74b3a6aa4e3c6",
}


def numbers(*shape: int) -> torch.Tensor:
    """Between -1 and 1, without torch's generator: its numbers may change with its version."""
    count = torch.Size(shape).numel()
    return ((torch.arange(count) * 2654435761 % 2**32 >> 8) / 2**23 - 1).view(shape)


def outputs(dtypes: list[torch.dtype]) -> list[torch.Tensor]:
    """Of linears and attention of some types, of quantised linears, norms and activations, for 1 and 17 rows."""
    x, found = numbers(17, 160), list[torch.Tensor]()
    linears: list[PackedLinear | QuantizedLinear] = [
        PackedLinear(numbers(50, 160).to(dtype), numbers(50)) for dtype in dtypes
    ]
    codes, scales = (numbers(50, 160) * 127).round(), numbers(50, 5) / 100
    linears.append(QuantizedLinear(QuantizedWeight(codes.to(torch.int8), scales, None, 8)))
    linears.append(QuantizedLinear(QuantizedWeight((codes.abs() // 8).to(torch.uint8), scales, -scales, 4)))
    found += [linear(x[:num_rows].contiguous()) for linear in linears for num_rows in (1, 17)]
    found += [norm(x, numbers(160)), norm(x, numbers(160), kind="layer")]
    found += [activate(x, "silu", is_gated=True), activate(x, "gelu")]
    sequence = (list(range(300)), [300, 301, 302], [-1, 0, 0])
    rows = rows_of([sequence], [(0, 300, None), *((0, 300, node) for node in range(3))])
    for dtype in dtypes:
        caches = numbers(303, 2, 40).to(dtype), numbers(303, 2, 40).flip(0).to(dtype)
        found.append(attend(10 * numbers(4, 6, 40), *caches, rows, 0.3, numbers(6).abs()))
    return found


def test_the_bits_are_those_of_this_arithmetic(isa: str) -> None:
    # Weights and caches of other types are not on tiles, so the twin of AMX has the bits of whatever vectors there are.
    dtypes = [torch.bfloat16] if isa.startswith("amx") else [torch.float32, torch.bfloat16, torch.float16]
    digest = hashlib.sha256(b"".join(out.numpy().tobytes() for out in outputs(dtypes))).hexdigest()[:16]
    assert ARITHMETIC == 2
    assert digest == _DIGESTS[isa.removesuffix("_twin")], "count ARITHMETIC up in specgrove/kernels/arithmetic.py"

"""A property of every kernel that takes rows: a row's bits are the same beside any others, in any place, with any number of threads.

What attention adds to this (trees, chunks, windows) is in ``test_row_invariance``.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from specgrove.kernels import threads
from specgrove.kernels.linear import PackedLinear
from specgrove.kernels.quantized_linear import QuantizedLinear, quantize
from specgrove.kernels.sampling import greedy_choices
from tests.kernels import one_op
from tests.kernels.examples import examples

Kernel = Callable[[torch.Tensor], torch.Tensor]


def packed(dtype: torch.dtype) -> Callable[[int], Kernel]:
    return lambda size: PackedLinear(torch.randn(int(torch.randint(1, 200, ())), size).to(dtype))


def quantized(bits: int, group_size: int | None) -> Callable[[int], Kernel]:
    return lambda size: QuantizedLinear(quantize(torch.randn(int(torch.randint(1, 200, ())), size), bits, group_size))


def rms_norm(size: int) -> Kernel:
    weight = torch.randn(size)
    return lambda rows: one_op.add_norm(rows, rows, weight)[0]


def layer_norm(size: int) -> Kernel:
    weight, bias = torch.randn(2, size).unbind()
    return lambda rows: one_op.norm(rows, weight.contiguous(), bias.contiguous(), "layer")


# From the size of a row to a kernel with weights of its own.
KERNELS: dict[str, Callable[[int], Kernel]] = {
    "linear float32": packed(torch.float32),
    "linear bfloat16": packed(torch.bfloat16),
    "linear float16": packed(torch.float16),
    "linear int8": quantized(8, None),
    "linear int8 in groups": quantized(8, 32),
    "linear int4": quantized(4, 32),
    "rms_norm": rms_norm,
    "layer_norm": layer_norm,
    "gated silu": lambda size: lambda rows: one_op.activate(rows, "silu", is_gated=True),
    "gated gelu": lambda size: lambda rows: one_op.activate(rows, "gelu_tanh", is_gated=True),
    "greedy_choices": lambda size: greedy_choices,
}


@pytest.mark.parametrize("name", KERNELS)
@examples(12)
@given(
    seed=st.integers(0, 10_000),
    size=st.sampled_from([32, 64, 96, 576, 1536]),
    num_rows=st.sampled_from([1, 2, 7, 16, 64]),
    place=st.integers(0, 63),
    num_threads=st.sampled_from([1, 2]),
    spread=st.sampled_from([1e-3, 1.0, 100.0]),
)
def test_a_rows_bits_do_not_depend_on_the_others(
    isa: str, name: str, seed: int, size: int, num_rows: int, place: int, num_threads: int, spread: float
) -> None:
    torch.manual_seed(seed)
    kernel, row = KERNELS[name](size), torch.randn(size)
    threads.set_num_threads(1)
    alone = kernel(row[None])[0]
    threads.set_num_threads(num_threads)
    rows = torch.randn(num_rows, size) * spread
    rows[place % num_rows] = row
    assert torch.equal(kernel(rows)[place % num_rows], alone)

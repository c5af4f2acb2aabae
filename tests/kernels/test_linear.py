"""Linears against float64, and rows whose bits depend on nothing but themselves."""

from __future__ import annotations

import pytest
import torch

from specgrove.kernels import threads
from specgrove.kernels.linear import PackedLinear
from specgrove.kernels.quantized_linear import QuantizedLinear, quantize
from tests.kernels import reference_linears
from tests.kernels.tile_data import product_bf16

DTYPES = [torch.float32, torch.bfloat16, torch.float16]
SHAPES = [(16, 8), (1, 1), (37, 19), (96, 64), (130, 33), (576, 200)]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("out_features", "in_features"), SHAPES)
@pytest.mark.parametrize("has_bias", [False, True])
def test_equals_float64(isa: str, dtype: torch.dtype, out_features: int, in_features: int, has_bias: bool) -> None:
    generator = torch.Generator().manual_seed(out_features)
    weight = torch.randn(out_features, in_features, generator=generator).to(dtype)
    bias = torch.randn(out_features, generator=generator) if has_bias else None
    linear = PackedLinear(weight, bias)
    for num_rows in (1, 2, 5, 6, 7, 13, 14, 33):
        x = torch.randn(num_rows, in_features, generator=generator)
        found, expected = linear(x), reference_linears.linear(x, weight, bias)
        assert found.shape == (num_rows, out_features)
        # Errors of float32 sums grow with their length; weights of 16 bits are exact in both.
        assert (found - expected).abs().max() <= 2e-7 * in_features + 1e-6


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_rows_bits_are_its_own(isa: str, dtype: torch.dtype) -> None:
    weight = torch.randn(150, 77).to(dtype)
    linear = PackedLinear(weight)
    x = torch.randn(64, 77)
    alone = torch.cat([linear(row[None]) for row in x])
    for num_threads in (1, 2):
        threads.set_num_threads(num_threads)
        for num_rows in (1, 2, 7, 16, 64):
            assert torch.equal(linear(x[:num_rows].contiguous()), alone[:num_rows])
        assert torch.equal(linear(x.flip(0).contiguous()), alone.flip(0))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize(("out_features", "in_features"), [(150, 77), (333, 1600)])
def test_a_rows_bits_are_its_own_in_a_prompt(isa: str, dtype: torch.dtype, out_features: int, in_features: int) -> None:
    """Beside any others, in any place of a chunk: rows of garbage and of NaN too."""
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(out_features, in_features, generator=generator).to(dtype)
    linear = PackedLinear(weight, torch.randn(out_features, generator=generator))
    x = torch.randn(512, in_features, generator=generator)
    watched = torch.tensor([0, 1, 15, 16, 31, 32, 127, 128, 300, 496, 511])
    alone = torch.cat([linear(x[row][None]) for row in watched])
    others = torch.full_like(x, torch.nan)
    others[::3] = 1e30
    others[watched] = x[watched]
    for num_threads in (1, 2):
        threads.set_num_threads(num_threads)
        whole = linear(x)
        assert torch.equal(whole[watched], alone)
        assert torch.equal(linear(others)[watched], alone)
        for num_rows in (17, 33, 40, 129, 497):
            assert torch.equal(linear(x[:num_rows].contiguous()), whole[:num_rows])


@pytest.mark.usefixtures("on_twin")
def test_tiles_take_32_inputs_at_a_time_in_order() -> None:
    """The bits of AMX, step by step: the bias, then a product of tiles after the other, the last one padded with zeros."""
    generator = torch.Generator().manual_seed(1)
    weight, bias = torch.randn(16, 800, generator=generator).bfloat16(), torch.randn(16, generator=generator)
    x = torch.randn(9, 785, generator=generator)
    padded = torch.nn.functional.pad(x, (0, 15)).bfloat16()
    weight[:, 785:] = 0
    sums = bias.expand(9, 16).contiguous()
    for step in range(0, 800, 32):
        sums = product_bf16(padded[:, step : step + 32], weight[:, step : step + 32].T, sums)
    assert torch.equal(PackedLinear(weight[:, :785], bias)(x), sums)


def test_other_code_may_use_the_tiles_in_between(isa: str) -> None:
    """torch's matrix products load and give up a configuration of their own, where the processor has AMX."""
    linear, x = PackedLinear(torch.randn(96, 64).bfloat16()), torch.randn(16, 64)
    wanted, other = linear(x), torch.randn(256, 256).bfloat16()
    for _ in range(3):
        assert (other @ other).shape == (256, 256)
        assert torch.equal(linear(x), wanted)


def test_writes_into_a_given_tensor() -> None:
    linear, x, out = PackedLinear(torch.randn(40, 8)), torch.randn(3, 8), torch.empty(3, 40)
    assert linear(x, out) is out
    assert torch.equal(out, linear(x))
    with pytest.raises(ValueError, match=r"out must have the shape \[3, 40\]"):
        linear(x, torch.empty(3, 41))


def test_bad_input_is_named() -> None:
    linear = PackedLinear(torch.randn(4, 8))
    with pytest.raises(ValueError, match=r"x must have the shape \[2, 8\]"):
        linear(torch.randn(2, 7))
    with pytest.raises(ValueError, match="not contiguous"):
        linear(torch.randn(8, 2).T)
    with pytest.raises(ValueError, match="weight must be contiguous float32, bfloat16 or float16"):
        PackedLinear(torch.zeros(4, 8, dtype=torch.int8))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_every_finite_weight_is_read_exactly(isa: str, dtype: torch.dtype) -> None:
    """All 65536 bit patterns but NaN and infinity; AVX-512 takes bfloat16 subnormals for zero, as the instruction does."""
    patterns = torch.arange(-32768, 32768, dtype=torch.int32).to(torch.int16).view(dtype)
    weight = patterns[patterns.isfinite()]
    out = PackedLinear(weight.view(-1, 1))(torch.ones(1, 1))[0]
    wanted = weight.float()
    if dtype is torch.bfloat16:
        wanted = torch.where(wanted.abs() < 2.0**-126, 0.0, wanted)
        out = torch.where(out.abs() < 2.0**-126, 0.0, out)
    assert torch.equal(out, wanted)


def test_rounds_activations_to_nearest_even(isa: str) -> None:
    """bfloat16: ties to even, both ways."""
    packed = PackedLinear(torch.ones(1, 1).bfloat16())
    x = torch.tensor([[1 + 2**-8], [1 + 3 * 2**-8], [1 + 2**-8 + 2**-20], [-1 - 2**-8], [3e38]])
    assert torch.equal(packed(x), x.bfloat16().float())


@pytest.mark.parametrize("kind", ["bfloat16", "int8"])
def test_no_rows_are_no_outputs(isa: str, kind: str) -> None:
    weight = torch.randn(40, 32)
    linear = QuantizedLinear(quantize(weight, 8, None)) if kind == "int8" else PackedLinear(weight.bfloat16())
    assert linear(torch.empty(0, 32)).shape == (0, 40)

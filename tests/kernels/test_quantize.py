"""Making weights of 8 and 4 bits: how far they are from what they stand for, and how they lie on the disk."""

from __future__ import annotations

import pytest
import torch

from specgrove.kernels.quantized_linear import CODE_DTYPES, QuantizedWeight, pack_codes, quantize, unpack_codes


@pytest.mark.parametrize("group_size", [None, 32, 64])
def test_8_bits_are_within_half_a_scale(group_size: int | None) -> None:
    weight = torch.randn(50, 192)
    quantized = quantize(weight, 8, group_size)
    assert quantized.group_size == (192 if group_size is None else group_size)
    assert quantized.mins is None
    error = (quantized.dequantized() - weight).abs().view(*quantized.scales.shape, -1)
    assert (error <= quantized.scales[..., None] * 0.5001).all()


@pytest.mark.parametrize("group_size", [None, 32, 64, 96])
def test_4_bits_are_within_half_a_scale_unless_clipped(group_size: int | None) -> None:
    weight = torch.randn(50, 192)
    quantized = quantize(weight, 4, group_size)
    assert quantized.mins is not None
    groups = weight.view(*quantized.scales.shape, -1)
    lowest, scale = quantized.mins[..., None], quantized.scales[..., None]
    is_clipped = (groups < lowest) | (groups > lowest + 15 * scale)
    error = (quantized.dequantized().view(groups.shape) - groups).abs()
    assert (error <= scale * 0.5001)[~is_clipped].all()
    assert is_clipped.float().mean() < 0.1


def test_clipping_is_better_than_the_whole_range() -> None:
    weight = torch.randn(200, 128)
    lowest, highest = weight.aminmax(dim=1, keepdim=True)
    scales = (highest - lowest) / 15
    whole_range = ((weight - lowest) / scales).round() * scales + lowest
    found = quantize(weight, 4, None).dequantized()
    assert (found - weight).square().sum() < 0.97 * (whole_range - weight).square().sum()
    assert ((found - weight).square().sum(1) <= 1.01 * (whole_range - weight).square().sum(1)).all()


@pytest.mark.parametrize("bits", [8, 4])
def test_groups_of_one_number_are_exact(bits: int) -> None:
    zeros = quantize(torch.zeros(3, 64), bits, 32)
    assert torch.equal(zeros.dequantized(), torch.zeros(3, 64))
    weight = torch.full((3, 64), 0.3).bfloat16().float()
    assert torch.allclose(quantize(weight, bits, 32).dequantized(), weight, rtol=1e-6)


@pytest.mark.parametrize(("size", "is_half"), [(1e-2, True), (1e-6, False), (1e5, False)])
def test_scales_have_16_bits_where_that_is_precise_enough(size: float, is_half: bool) -> None:
    weight = torch.randn(32, 64) * size
    found = quantize(weight, 4, 32)
    assert found.shape().has_half_scales == is_half
    assert (found.dequantized() - weight).abs().max() < size / 2


def test_takes_weights_of_16_bits_and_slices() -> None:
    weight = torch.randn(64, 20).bfloat16().T
    assert torch.equal(quantize(weight, 8, 32).codes, quantize(weight.float().contiguous(), 8, 32).codes)


@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize("in_features", [1, 2, 7, 64])
def test_codes_come_back_from_the_disk(bits: int, in_features: int) -> None:
    lowest, highest = (-127, 128) if bits == 8 else (0, 16)
    codes = torch.randint(lowest, highest, (5, in_features)).to(CODE_DTYPES[bits])
    packed = pack_codes(codes, bits)
    assert packed.dtype is torch.uint8
    assert packed.shape == (5, -(-in_features * bits // 8))
    assert torch.equal(unpack_codes(packed, bits, in_features), codes)


def test_bad_weights_are_named() -> None:
    scales = torch.ones(2, 2)
    with pytest.raises(ValueError, match="bits must be 8 or 4, got 3"):
        QuantizedWeight(torch.zeros(2, 8, dtype=torch.int8), scales, None, 3)
    with pytest.raises(ValueError, match=r"codes of 4 bits must be at most 15, got 16 to 16"):
        QuantizedWeight(torch.full((2, 8), 16, dtype=torch.uint8), scales, None, 4)
    with pytest.raises(ValueError, match=r"codes of 8 bits must be at most 127, got -128 to -128"):
        QuantizedWeight(torch.full((2, 8), -128, dtype=torch.int8), scales, None, 8)
    with pytest.raises(ValueError, match=r"codes must be a contiguous torch\.int8 tensor"):
        QuantizedWeight(torch.zeros(2, 8, dtype=torch.uint8), scales, None, 8)
    with pytest.raises(ValueError, match="3 scales of an output don't divide its 8 inputs"):
        QuantizedWeight(torch.zeros(2, 8, dtype=torch.int8), torch.ones(2, 3), None, 8)
    with pytest.raises(ValueError, match=r"mins must have the shape \[2, 2\]"):
        QuantizedWeight(torch.zeros(2, 8, dtype=torch.uint8), scales, torch.ones(2, 1), 4)
    with pytest.raises(ValueError, match="group_size must divide the 8 inputs, got 3"):
        quantize(torch.zeros(2, 8), 8, 3)
    with pytest.raises(ValueError, match="weights must be finite"):
        quantize(torch.full((2, 8), torch.nan), 4, None)

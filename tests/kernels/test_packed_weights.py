"""Packed weights as bytes: the same from every instruction path, and good to multiply with where they lie."""

from __future__ import annotations

import gc

import pytest
import torch

from specgrove.kernels import threads
from specgrove.kernels.linear import PackedLinear
from specgrove.kernels.quantized_linear import QuantizedLinear, QuantizedShape, QuantizedWeight, quantize

DTYPES = [torch.float32, torch.bfloat16, torch.float16]


def aligned(packed: torch.Tensor) -> torch.Tensor:
    """A copy that starts at a multiple of 64 bytes."""
    room = torch.empty(len(packed) + 64, dtype=torch.uint8)
    start = -room.data_ptr() % 64
    return room[start : start + len(packed)].copy_(packed)


@pytest.mark.parametrize("dtype", DTYPES)
def test_linears_over_packed_bytes_give_the_same_bits(isa: str, dtype: torch.dtype) -> None:
    weight, bias, x = torch.randn(75, 37).to(dtype), torch.randn(75), torch.randn(5, 37)
    for used_bias in (None, bias):
        linear = PackedLinear(weight, used_bias)
        packed = linear.packed()
        assert packed.shape == (linear.nbytes,)
        view = PackedLinear.from_packed(aligned(packed), dtype, 75, 37, used_bias)
        assert (view.nbytes, view.dtype, view.out_features, view.in_features) == (linear.nbytes, dtype, 75, 37)
        assert torch.equal(view(x), linear(x))
        assert torch.equal(view.packed(), packed)


@pytest.mark.parametrize(("bits", "group_size"), [(8, 37), (4, 37), (8, 32), (4, 64), (4, 192)])
def test_quantized_linears_over_packed_bytes_give_the_same_bits(isa: str, bits: int, group_size: int) -> None:
    in_features = 37 if group_size == 37 else 192
    weight, bias, x = torch.randn(75, in_features), torch.randn(75), torch.randn(5, in_features)
    quantized = quantize(weight, bits, group_size)
    for used_bias in (None, bias):
        linear = QuantizedLinear(quantized, used_bias)
        packed = linear.packed()
        view = QuantizedLinear.from_packed(aligned(packed), quantized.shape(), used_bias)
        assert (view.nbytes, view.out_features, view.in_features) == (linear.nbytes, 75, in_features)
        assert torch.equal(view(x), linear(x))
        assert torch.equal(view.packed(), packed)


def test_every_instruction_path_packs_alike(isa: str) -> None:
    weight = torch.randn(75, 64)
    makers = [lambda dtype=dtype: PackedLinear(weight.to(dtype)).packed() for dtype in DTYPES]
    makers += [lambda bits=bits: QuantizedLinear(quantize(weight, bits, 32)).packed() for bits in (8, 4)]
    found = [make() for make in makers]
    threads.set_isa("plain")
    for packed, make in zip(found, makers, strict=True):
        assert torch.equal(packed, make())


def test_codes_of_8_bits_lie_as_tiles_read_them() -> None:
    """Signed, four inputs of 16 outputs in a line: 16 lines are a tile, and VNNI multiplies by one."""
    codes = torch.randint(-127, 128, (16, 64), dtype=torch.int8)
    packed = QuantizedLinear(QuantizedWeight(codes, torch.ones(16, 1), None, 8)).packed()
    lines = packed[: 16 * 64].view(torch.int8).view(16, 16, 4)
    assert torch.equal(lines, codes.view(16, 16, 4).transpose(0, 1))


def test_a_view_reads_the_callers_memory_and_keeps_it() -> None:
    linear, x = PackedLinear(torch.randn(64, 16)), torch.randn(2, 16)
    packed = aligned(linear.packed())
    view, wanted = PackedLinear.from_packed(packed, torch.float32, 64, 16), linear(x)
    packed.zero_()
    assert torch.equal(view(x), torch.zeros(2, 64))
    packed.copy_(linear.packed())
    del packed
    gc.collect()
    torch.randn(4096)
    assert torch.equal(view(x), wanted)


def test_bad_bytes_are_named() -> None:
    packed = aligned(PackedLinear(torch.randn(64, 16)).packed())
    with pytest.raises(ValueError, match=r"packed must have the shape \[4096\], got \[4032\]"):
        PackedLinear.from_packed(packed[:-64], torch.float32, 64, 16)
    with pytest.raises(ValueError, match="packed must start at a multiple of 64 bytes"):
        PackedLinear.from_packed(aligned(torch.empty(8192, dtype=torch.uint8))[1:4097], torch.float32, 64, 16)
    with pytest.raises(ValueError, match=r"packed must be a contiguous torch\.uint8 tensor"):
        PackedLinear.from_packed(packed.view(torch.float32), torch.float32, 64, 16)
    with pytest.raises(ValueError, match=r"dtype must be float32, bfloat16 or float16, got torch\.int8"):
        PackedLinear.from_packed(packed, torch.int8, 64, 16)
    with pytest.raises(ValueError, match=r"packed must have the shape \[2560\], got \[4096\]"):
        QuantizedLinear.from_packed(packed, QuantizedShape(8, 32, 32, 16, has_mins=True, has_half_scales=False))
    with pytest.raises(ValueError, match="group_size must be 16 or a multiple of 4 that divides it, got 6"):
        QuantizedLinear.from_packed(packed, QuantizedShape(8, 64, 16, 6, has_mins=False, has_half_scales=False))


def test_linears_that_come_and_go_leave_the_others_as_they_are() -> None:
    """They share pages: what is freed in between must take nothing with it, and its place may be used again."""
    generator, x = torch.Generator().manual_seed(0), torch.randn(2, 64)
    kept: dict[int, tuple[PackedLinear, torch.Tensor]] = {}
    for number in range(300):
        size = int(torch.randint(1, 3000, (1,), generator=generator))
        linear = PackedLinear(torch.randn(size, 64, generator=generator))
        kept[number] = linear, linear(x)
        if number % 3:
            kept.pop(int(torch.randint(0, number + 1, (1,), generator=generator)) if number % 2 else number, None)
    assert all(torch.equal(linear(x), expected) for linear, expected in kept.values())

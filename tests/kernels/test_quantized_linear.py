"""Linears over weights of 8 and 4 bits against float64, and rows whose bits depend on nothing but themselves."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from specgrove.kernels import threads
from specgrove.kernels.quantized_linear import CODE_DTYPES, QuantizedLinear, QuantizedWeight
from tests.kernels import reference_linears

# Outputs, inputs, group size; the last groups are whole rows. Chunks of inputs of all lengths: whole, half, and padded.
SHAPES = [
    (64, 64, 32),
    (37, 96, 32),
    (130, 192, 64),
    (100, 384, 128),
    (50, 480, 160),
    (40, 12, 4),
    (1, 1, 1),
    (70, 33, 33),
    (31, 582, 582),
]
FORMATS = [(8, False), (8, True), (4, False), (4, True)]


def weight_of(out_features: int, in_features: int, group_size: int, bits: int, has_mins: bool) -> QuantizedWeight:
    """Random codes over their whole range."""
    lowest, highest = (-127, 128) if bits == 8 else (0, 16)
    codes = torch.randint(lowest, highest, (out_features, in_features)).to(CODE_DTYPES[bits])
    scales, mins = torch.rand(2, out_features, in_features // group_size) * 0.1
    return QuantizedWeight(codes, scales, -8 * mins if has_mins else None, bits)


def in_float32(x: torch.Tensor, weight: QuantizedWeight, bias: torch.Tensor | None) -> torch.Tensor:
    """The same steps in torch: a sum for each group, scaled and added up in the order of the groups."""
    groups = reference_linears.rounded_inputs(x, weight.group_size).view(len(x), -1, weight.group_size)
    codes = weight.codes.float().view(weight.out_features, -1, weight.group_size)
    out = torch.zeros(len(x), weight.out_features) if bias is None else bias.expand(len(x), -1).clone()
    for group in range(groups.shape[1]):
        out += weight.scales[:, group] * (groups[:, group] @ codes[:, group].T)
        if weight.mins is not None:
            out += weight.mins[:, group] * groups[:, group].sum(-1, keepdim=True)
    return out


@pytest.mark.parametrize(("bits", "has_mins"), FORMATS)
@pytest.mark.parametrize(("out_features", "in_features", "group_size"), SHAPES)
def test_is_as_close_to_float64_as_torch(
    isa: str, bits: int, has_mins: bool, out_features: int, in_features: int, group_size: int
) -> None:
    torch.manual_seed(out_features)
    weight = weight_of(out_features, in_features, group_size, bits, has_mins)
    for bias in (None, torch.randn(out_features)):
        linear = QuantizedLinear(weight, bias)
        for num_rows in (1, 2, 5, 11, 12, 13, 33):
            x = torch.randn(num_rows, in_features)
            found, expected = linear(x), reference_linears.quantized_linear(x, weight, bias)
            assert found.shape == (num_rows, out_features)
            allowed = 2 * (in_float32(x, weight, bias) - expected).abs().max()
            assert (found - expected).abs().max() <= allowed + 1e-6 * expected.abs().max()


@pytest.mark.parametrize("bits", [8, 4])
def test_scales_in_16_bits_change_nothing(isa: str, bits: int) -> None:
    weight, x = weight_of(150, 384, 32, bits, has_mins=True), torch.randn(33, 384)
    assert weight.mins is not None
    halves = replace(weight, scales=weight.scales.half().float(), mins=weight.mins.half().float())
    assert halves.shape().has_half_scales
    assert not replace(halves, mins=weight.mins).shape().has_half_scales
    linear, in_32_bits = (QuantizedLinear(halves, has_half_scales=is_half) for is_half in (None, False))
    assert in_32_bits.nbytes - linear.nbytes == 2 * 2 * 160 * 384 // 32
    assert torch.equal(linear(x), in_32_bits(x))


@pytest.mark.parametrize(("bits", "has_mins"), FORMATS)
@pytest.mark.parametrize("group_size", [32, 128, 384])
def test_a_rows_bits_are_its_own(isa: str, bits: int, has_mins: bool, group_size: int) -> None:
    linear = QuantizedLinear(weight_of(150, 384, group_size, bits, has_mins), torch.randn(150))
    x = torch.randn(70, 384)
    alone = torch.cat([linear(row[None]) for row in x])
    for num_threads in (1, 2):
        threads.set_num_threads(num_threads)
        for num_rows in (*range(1, 18), 64, 70):
            assert torch.equal(linear(x[:num_rows].contiguous()), alone[:num_rows])
        assert torch.equal(linear(x.flip(0).contiguous()), alone.flip(0))


@pytest.mark.parametrize(("bits", "has_mins"), FORMATS)
@pytest.mark.parametrize(
    ("out_features", "in_features", "group_size"),
    [*SHAPES, (200, 576, 576), (200, 576, 64), (200, 576, 32), (70, 1536, 1536), (70, 1536, 32), (20, 8960, 64)],
)
def test_tiles_give_the_bits_of_vectors(
    bits: int, has_mins: bool, out_features: int, in_features: int, group_size: int
) -> None:
    """Codes' products are whole numbers, so that a replica with AMX computes what one without does, and so may every number of rows."""
    torch.manual_seed(in_features)
    linear = QuantizedLinear(
        weight_of(out_features, in_features, group_size, bits, has_mins), torch.randn(out_features)
    )
    found: dict[str, list[torch.Tensor]] = {}
    x = torch.randn(150, in_features) * torch.randn(150, 1).exp()
    for isa in ("amx_twin", "amx", "avx512", "avx2"):
        try:
            threads.set_isa(isa)
        except ValueError:
            continue
        found[isa] = [linear(x[:num_rows]) for num_rows in (1, 7, 8, 12, 15, 16, 17, 33, 49, 64, 65, 81, 150)]
    if len(found) == 1:
        pytest.skip("this processor rounds twice where AMX and AVX2 do it once")
    for isa, outs in found.items():
        for expected, out in zip(found["amx_twin"], outs, strict=True):
            assert torch.equal(expected, out), isa


@pytest.mark.parametrize("bits", [8, 4])
def test_every_code_is_read_exactly(isa: str, bits: int) -> None:
    """Each code alone, at every place of a step and of a group of outputs."""
    every = torch.arange(-127, 128) if bits == 8 else torch.arange(16)
    for in_features in (1, 2, 3, 4, 8, 33):
        for place in range(in_features):
            codes = torch.zeros(len(every), in_features, dtype=CODE_DTYPES[bits])
            codes[:, place] = every
            weight = QuantizedWeight(codes, torch.ones(len(every), 1), None, bits)
            x = torch.full((1, in_features), 127.0)  # its code is 127, its scale 1
            assert torch.equal(QuantizedLinear(weight)(x)[0], 127 * every.float())


@pytest.mark.parametrize("bits", [8, 4])
def test_sums_of_products_are_exact(isa: str, bits: int) -> None:
    """Scales of one: every number on the way is an integer that float32 holds."""
    torch.manual_seed(0)
    lowest, highest = (-127, 127) if bits == 8 else (0, 15)
    codes = torch.randint(lowest, highest + 1, (50, 96)).to(CODE_DTYPES[bits])
    codes[0], codes[1] = lowest, highest
    weight = QuantizedWeight(codes, torch.ones(50, 3), None, bits)
    x = torch.randint(-127, 128, (20, 96)).float()
    x[:, ::32] = 127  # makes the scale of every chunk one
    x[0], x[1] = 127, -127
    assert torch.equal(QuantizedLinear(weight)(x), (x.double() @ codes.double().T).float())


@pytest.mark.parametrize(("bits", "has_mins"), FORMATS)
def test_inputs_of_all_sizes(isa: str, bits: int, has_mins: bool) -> None:
    """Chunks of zeros, of tiny and of huge numbers, and one number that is far larger than the others of its chunk."""
    weight = weight_of(20, 128, 64, bits, has_mins)
    x = torch.randn(5, 128) * torch.tensor([1e-30, 1e30, 1.0, 0.0, 1.0])[:, None]
    x[2, 40], x[4, :64] = 1e6, 0.0
    found, expected = QuantizedLinear(weight)(x), reference_linears.quantized_linear(x, weight)
    largest = expected.abs().amax(1, keepdim=True)
    assert ((found - expected).abs() <= 1e-5 * largest).all()
    assert (found[3] == 0).all()


@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize("broken", [float("nan"), float("inf"), -float("inf")])
def test_what_is_no_number_stays_in_its_row(isa: str, broken: float, bits: int) -> None:
    linear, x = QuantizedLinear(weight_of(40, 64, 32, bits, True)), torch.randn(13, 64)
    expected = linear(x)
    x[4, 50] = broken
    found = linear(x)
    assert found[4].isnan().all()
    others = [row for row in range(13) if row != 4]
    assert torch.equal(found[others], expected[others])


def test_writes_into_a_given_tensor() -> None:
    linear, x, out = QuantizedLinear(weight_of(40, 8, 8, 8, False)), torch.randn(3, 8), torch.empty(3, 40)
    assert linear(x, out) is out
    assert torch.equal(out, linear(x))
    assert linear(torch.empty(0, 8)).shape == (0, 40)


def test_bad_input_is_named() -> None:
    weight = weight_of(4, 8, 8, 4, True)
    with pytest.raises(ValueError, match=r"x must have the shape \[2, 8\]"):
        QuantizedLinear(weight)(torch.randn(2, 7))
    with pytest.raises(ValueError, match=r"bias must have the shape \[4\]"):
        QuantizedLinear(weight, torch.zeros(5))
    with pytest.raises(ValueError, match=r"group_size must be 6 or a multiple of 4 that divides it, got 2"):
        QuantizedLinear(weight_of(4, 6, 2, 8, False))

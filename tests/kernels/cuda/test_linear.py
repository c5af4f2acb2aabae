"""Linears of few rows against float64, and the bits of a row alone."""

from __future__ import annotations

import pytest
import torch

from specgrove.kernels.cuda.linear import PackedDeviceLinear, _pack
from specgrove.kernels.quantized_linear import QuantizedWeight, quantize
from tests.kernels.cuda.conftest import assert_as_exact_as_torch, poisoned

DTYPES = [torch.float16, torch.bfloat16]
# bits, group size, and whether 8 bits have mins, which only other formats' checkpoints give them
FORMATS = [(16, None, False), (8, None, False), (8, 32, False), (8, 16, True), (4, 16, True), (4, 32, True)]
FORMATS += [(4, 64, True), (4, 128, True), (4, None, True), (4, 48, False), (8, 128, False)]


def _weight(
    bits: int, group_size: int | None, has_mins: bool, out_features: int, in_features: int
) -> torch.Tensor | QuantizedWeight:
    values = torch.randn(out_features, in_features)
    if bits == 16:
        return values
    weight = quantize(values, bits, group_size)
    if (weight.mins is not None) == has_mins:
        return weight
    mins = torch.randn_like(weight.scales) if has_mins else None
    return QuantizedWeight(weight.codes, weight.scales, mins, bits)


def _check(
    weight: torch.Tensor | QuantizedWeight, has_bias: bool, dtype: torch.dtype, num_rows: int, device: torch.device
) -> None:
    if isinstance(weight, torch.Tensor):
        weight = weight.to(dtype)
        values = weight.float()
    else:
        values = weight.dequantized()
    bias = torch.randn(len(values)) if has_bias else None
    linear = PackedDeviceLinear(weight, bias, dtype, device)
    x = torch.randn(num_rows, linear.in_features, device=device).to(dtype)
    out = poisoned(num_rows, linear.out_features, dtype=torch.float32, device=device)
    for _ in range(2):  # counters are as they were
        assert linear(x, out) is out
    offset = 0 if bias is None else bias.to(device)
    values = values.to(device)
    exact = x.double() @ values.double().T + offset
    if isinstance(weight, torch.Tensor):
        in_torch = (x @ values.to(dtype).T).float() + offset
        bound = 1e-6 * (x.double().abs() @ values.double().abs().T) + 1e-6
        assert ((out - exact).abs() <= bound).all()
    else:
        in_torch = x.float() @ values.to(dtype).float().T + offset
    assert_as_exact_as_torch(out, in_torch, exact)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("bits", "group_size", "has_mins"), FORMATS)
def test_linear(device: torch.device, dtype: torch.dtype, bits: int, group_size: int | None, has_mins: bool) -> None:
    torch.manual_seed(bits)
    in_features = 272 if group_size in (None, 16) else 2 * group_size if group_size != 48 else 240
    _check(_weight(bits, group_size, has_mins, 49, in_features), bits != 8, dtype, 5, device)


@pytest.mark.parametrize("bits", [16, 8, 4])
@pytest.mark.parametrize(
    ("out_features", "in_features", "num_rows"),
    [
        (48, 64, 12),
        (130, 68, 1),
        (3, 8, 70),
        (1, 1, 1),
        (70, 2056, 3),
        (33, 264, 600),
        (161, 100, 30),
        (129, 2056, 50),
    ],
)
def test_shapes(device: torch.device, bits: int, out_features: int, in_features: int, num_rows: int) -> None:
    torch.manual_seed(num_rows)
    _check(_weight(bits, None, bits == 4, out_features, in_features), True, torch.bfloat16, num_rows, device)


@pytest.mark.gpu
@pytest.mark.parametrize(("bits", "group_size", "has_mins"), FORMATS[:1] + FORMATS[2:3] + FORMATS[5:8])
@pytest.mark.parametrize("shape", [(4096, 4096), (1024, 4096), (4096, 14336)])
@pytest.mark.parametrize("num_rows", [1, 16, 64])
def test_large(bits: int, group_size: int | None, has_mins: bool, shape: tuple[int, int], num_rows: int) -> None:
    _check(_weight(bits, group_size, has_mins, *shape), True, torch.bfloat16, num_rows, torch.device("cuda"))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("bits", "group_size", "has_mins", "in_features"),
    [
        (16, None, False, 272),
        (16, None, False, 2056),
        (8, 32, False, 256),
        (8, 16, True, 144),
        (4, 64, True, 2048),
        (4, 16, True, 144),
        (4, 128, False, 256),
    ],
)
def test_a_rows_bits_do_not_depend_on_other_rows(
    device: torch.device, dtype: torch.dtype, bits: int, group_size: int | None, has_mins: bool, in_features: int
) -> None:
    """Nor on which blocks there are: few processors get wide ones, more get one for each slice, many get narrow ones."""
    torch.manual_seed(1)
    weight = _weight(bits, group_size, has_mins, 161, in_features)
    few, more, many = (PackedDeviceLinear(weight, None, dtype, device, processors=n) for n in (1, 12, 1000))
    x = torch.randn(70, in_features, device=device).to(dtype)
    together = few(x)
    for linears, num_rows, first in [
        ((few,), 1, 0),
        ((few,), 1, 67),
        ((few,), 7, 30),
        ((few, more, many), 9, 61),
        ((few, more), 24, 3),
        ((more, many), 35, 35),
        ((many,), 70, 0),
    ]:
        rows = slice(first, first + num_rows)
        for linear in linears:
            assert torch.equal(linear(x[rows].clone()), together[rows])


@pytest.mark.parametrize("bits", [16, 8, 4])
def test_numbers_that_are_not_finite_stay_in_their_rows(device: torch.device, bits: int) -> None:
    linear = PackedDeviceLinear(_weight(bits, 16, bits == 4, 40, 80), None, torch.float16, device)
    x = torch.randn(10, 80, device=device).half()
    expected = linear(x)
    x[3], x[8, 5] = torch.nan, torch.inf
    out = linear(x)
    others = [0, 1, 2, 4, 5, 6, 7, 9]
    assert torch.equal(out[others], expected[others])
    assert out[3].isnan().all()
    assert not out[8].isfinite().any()


@pytest.mark.parametrize("dtype", DTYPES)
def test_zero_times_anything_leaves_a_small_sum_as_it_is(device: torch.device, dtype: torch.dtype) -> None:
    """Tree attention relies on it too: a row gives weight zero to what other rows see, and must keep its bits.

    A tensor core that aligned a sum with the exponents of such products would drop the lowest bits of a small one.
    """
    precise = 1 + torch.finfo(dtype).eps
    weight = torch.zeros(32, 512)
    factors = precise * 2.0 ** -torch.arange(13)
    weight[:13, 0] = factors
    linear = PackedDeviceLinear(weight, None, dtype, device)
    others = torch.tensor([1.0, 8.0, 1000.0, 60000.0])
    x = torch.zeros(len(factors), len(others), 512)
    x[..., 0] = factors[:, None]
    alone = linear(x.view(-1, 512).to(device, dtype))
    x[..., 64:128] = others[:, None]  # the next products of the same slice
    assert torch.equal(linear(x.view(-1, 512).to(device, dtype)), alone)
    assert 0 < alone[:, :13].min() < 2**-23


def test_no_rows(device: torch.device) -> None:
    linear = PackedDeviceLinear(torch.randn(5, 16), None, torch.float16, device)
    assert linear(torch.empty(0, 16, dtype=torch.float16, device=device)).shape == (0, 5)


def test_sizes_and_errors(device: torch.device) -> None:
    weight = quantize(torch.randn(64, 128), 4, 32)
    linear = PackedDeviceLinear(weight, None, torch.float16, device)
    assert linear.nbytes == 64 * 128 // 2 + 2 * 2 * 64 * 4 == sum(part.nbytes for part in linear.parts)
    assert (linear.out_features, linear.in_features) == (64, 128)
    with pytest.raises(ValueError, match="group_size"):
        PackedDeviceLinear(quantize(torch.randn(2, 24), 8, 12), None, torch.float16, device)
    with pytest.raises(ValueError, match="dtype"):
        PackedDeviceLinear(weight, None, torch.float32, device)
    with pytest.raises(ValueError, match="x must"):
        linear(torch.zeros(1, 128, dtype=torch.bfloat16, device=device))
    x = torch.randn(3, 128, device=device)
    assert torch.equal(linear(x), linear(x.half()))


def test_weights_are_packed_where_they_will_lie(monkeypatch: pytest.MonkeyPatch) -> None:
    """By the card, not by the one thread that a service's torch has."""
    packed_on: list[torch.device] = []

    def spied_pack(values: torch.Tensor, bits: int) -> torch.Tensor:
        packed_on.append(values.device)
        return _pack(values, bits)

    monkeypatch.setattr("specgrove.kernels.cuda.linear._pack", spied_pack)
    device = torch.device("meta")  # has no memory: what is computed there is computed nowhere else
    for weight in (torch.randn(40, 70), quantize(torch.randn(40, 64), 4, 32)):
        made = PackedDeviceLinear(weight, None, torch.bfloat16, device, processors=1)
        assert {part.device for part in made.parts} == {device}
    assert packed_on == [device, device]

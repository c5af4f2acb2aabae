"""The twin of AMX's tiles against exact arithmetic, and against the processor where it has AMX."""

from __future__ import annotations

import math
from fractions import Fraction

import pytest
import torch

from specgrove.kernels import threads
from tests.kernels.tile_data import KINDS, NAN, TINY, Make, product_bf16, product_s8

pytestmark = pytest.mark.usefixtures("on_twin")


def rounded(exact: Fraction) -> float:
    """To 24 bits, ties to even, as if exponents had no end; then what is tiny is zero, and what is huge infinite."""
    size = abs(exact)
    exponent = size.numerator.bit_length() - size.denominator.bit_length()
    if Fraction(2) ** exponent > size:
        exponent -= 1
    unit = Fraction(2) ** (exponent - 23)
    value = round(size / unit) * unit  # round() of a fraction takes ties to even
    if value < Fraction(2) ** -126:
        return math.copysign(0.0, exact)
    return math.copysign(math.inf, exact) if value >= Fraction(2) ** 128 else math.copysign(float(value), exact)


def fma(a: float, b: float, c: float) -> float:
    """Rounded once. Of numbers that are not denormal."""
    if not all(map(math.isfinite, (a, b, c))):
        return a * b + c  # what is infinite or no number is so in any precision
    exact = Fraction(a) * Fraction(b) + Fraction(c)
    if exact != 0:
        return rounded(exact)
    sign_of_product = math.copysign(1.0, a) * math.copysign(1.0, b)
    both_negative = sign_of_product < 0 and math.copysign(1.0, c) < 0
    return -0.0 if a * b == c == 0 and both_negative else 0.0


def without_denormals(value: float) -> float:
    return math.copysign(0.0, value) if abs(value) < TINY else value


def reference(a: torch.Tensor, b: torch.Tensor, c: torch.Tensor) -> torch.Tensor:
    """As the manual defines TDPBF16PS, one number after the other."""
    rows, outputs = c.shape
    out = torch.empty_like(c)
    a_rows = [[without_denormals(value) for value in row] for row in a.tolist()]
    b_rows = [[without_denormals(value) for value in row] for row in b.tolist()]
    for row in range(rows):
        for output in range(outputs):
            sums = [0.0, 0.0]
            for k, value in enumerate(a_rows[row]):
                sums[k % 2] = fma(value, b_rows[k][output], sums[k % 2])
            both = fma(sums[0], 1.0, sums[1])
            out[row, output] = fma(without_denormals(float(c[row, output])), 1.0, both)
    return out


def sums_of(make: Make, rows: int, outputs: int, generator: torch.Generator) -> torch.Tensor:
    """As large as products are, or these would vanish beside them."""
    return make(rows, outputs, generator) * make(rows, outputs, generator)


def bits(x: torch.Tensor) -> torch.Tensor:
    """With all NaNs alike: their payloads are nobody's concern."""
    return x.where(~x.isnan(), torch.tensor(NAN)).view(torch.int32)


@pytest.mark.parametrize("kind", KINDS)
def test_the_twin_computes_as_the_manual_says(kind: str) -> None:
    generator = torch.Generator().manual_seed(1)
    make = KINDS[kind]
    for rows, inputs, outputs in ((1, 2, 1), (3, 32, 5), (16, 14, 3), (5, 32, 16)):
        a, b = make(rows, inputs, generator).bfloat16(), make(inputs, outputs, generator).bfloat16()
        c = sums_of(make, rows, outputs, generator)
        assert torch.equal(bits(product_bf16(a, b, c)), bits(reference(a, b, c)))


@pytest.mark.parametrize(
    ("less", "expected"),
    [
        (2.0**-150, 0.0),  # 24 bits of a lower exponent: tiny, though a denormal number would be rounded up to 2^-126
        (1.5 * 2.0**-151, 0.0),
        (2.0**-151, TINY),  # a tie: up, exponents without end or not
        (2.0**-149, 0.0),
        (2.0**-152, TINY),
        (-(2.0**-150), TINY),
    ],
)
@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_tiny_is_judged_after_rounding(less: float, expected: float, sign: float) -> None:
    a = torch.tensor([[sign, 0, -sign * 2.0**-100, 0]]).bfloat16()
    b = torch.tensor([[TINY], [0], [less * 2.0**100], [0]]).bfloat16()
    c = torch.zeros(1, 1)
    out = product_bf16(a, b, c)
    assert torch.equal(out, torch.tensor([[sign * expected]]))
    assert torch.equal(bits(out), bits(reference(a, b, c)))


def test_signs_of_zeros() -> None:
    """Sums begin with +0, so that -0 stays only where a sum of -0 and -0 ends."""
    zero, one = torch.zeros(1, 2).bfloat16(), torch.ones(2, 1).bfloat16()
    assert math.copysign(1.0, product_bf16(zero, -one, torch.full((1, 1), -0.0)).item()) == 1.0
    # Two results that would be denormal become -0 each; their sum is -0, and so is that of it and -0.
    small = torch.full((1, 2), -(2.0**-70)).bfloat16()
    assert math.copysign(1.0, product_bf16(small, -small.T, torch.full((1, 1), -0.0)).item()) == -1.0


def test_denormal_sums_count_as_zero() -> None:
    zero = torch.zeros(1, 2).bfloat16()
    assert product_bf16(zero, zero.T, torch.full((1, 1), TINY / 2)).item() == 0.0
    assert product_bf16(zero, zero.T, torch.full((1, 1), TINY)).item() == TINY


def test_sums_of_bytes_are_exact_and_wrap_around() -> None:
    generator = torch.Generator().manual_seed(2)
    for rows, inputs, outputs in ((1, 4, 1), (16, 64, 16), (7, 36, 5)):
        a = torch.randint(-128, 128, (rows, inputs), generator=generator, dtype=torch.int8)
        b = torch.randint(-128, 128, (inputs, outputs), generator=generator, dtype=torch.int8)
        c = torch.randint(-(2**31), 2**31, (rows, outputs), generator=generator).int()
        exact = c.long() + a.long() @ b.long()
        assert torch.equal(product_s8(a, b, c), ((exact + 2**31) % 2**32 - 2**31).int())
    largest = torch.full((1, 1), 2**31 - 1, dtype=torch.int32)
    ones = torch.ones(1, 4, dtype=torch.int8)
    assert product_s8(ones, ones.T, largest).item() == -(2**31) + 3


@pytest.mark.parametrize("kind", KINDS)
def test_a_row_is_the_same_among_others(kind: str) -> None:
    generator = torch.Generator().manual_seed(3)
    make = KINDS[kind]
    a, b = make(16, 32, generator).bfloat16(), make(32, 16, generator).bfloat16()
    c = sums_of(make, 16, 16, generator)
    together = product_bf16(a, b, c)
    for row in range(16):
        alone = product_bf16(a[row : row + 1], b, c[row : row + 1])
        assert torch.equal(bits(alone), bits(together[row : row + 1]))


def test_a_tile_without_a_shape_is_an_error() -> None:
    """As a processor faults."""
    zero = torch.zeros(2, 2).bfloat16()
    with pytest.raises(RuntimeError, match="tile 0 has rows without columns, or columns without rows"):
        product_bf16(zero[:0], zero, torch.zeros(0, 2))


@pytest.mark.usefixtures("on_amx")
@pytest.mark.parametrize("kind", KINDS)
def test_the_processors_tiles_give_the_bits_of_the_twin(kind: str) -> None:
    generator = torch.Generator().manual_seed(4)
    make = KINDS[kind]
    for _ in range(2000):
        rows, pairs, outputs = torch.randint(1, 17, (3,), generator=generator).tolist()
        a, b = make(rows, 2 * pairs, generator).bfloat16(), make(2 * pairs, outputs, generator).bfloat16()
        c = sums_of(make, rows, outputs, generator)
        signed_a, signed_b = a.view(torch.int8), b.contiguous().view(torch.int8)[:, :outputs].repeat(2, 1)
        found: list[torch.Tensor] = []
        for isa in ("amx", "amx_twin"):
            threads.set_isa(isa)
            found += [bits(product_bf16(a, b, c)), product_s8(signed_a, signed_b, c.view(torch.int32))]
        assert torch.equal(found[0], found[2])
        assert torch.equal(found[1], found[3])

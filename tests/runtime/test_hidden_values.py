"""Hidden states as bytes: rounded to the nearest, ties to even, and cut as they are asked for."""

from __future__ import annotations

import struct

import pytest
import torch

from specgrove.loop.verifier_knowledge import HiddenStates
from specgrove.runtime import hidden_values
from specgrove.runtime.hidden_values import PassValues, tensor_of


def bits(value: float) -> int:
    """Of a float32."""
    return int(struct.unpack("<I", struct.pack("<f", value))[0])


def test_they_are_rounded_to_the_nearest_and_little_endian() -> None:
    numbers = [1.0, -2.5, 1 + 2**-8, 1 + 3 * 2**-8, 1 + 2**-8 + 2**-20, 3e38]
    values = PassValues([torch.tensor([numbers])]).of([0], [0])
    found = struct.unpack(f"<{len(numbers)}H", values)
    lower = [bits(number) >> 16 for number in numbers]
    assert found == (lower[0], lower[1], lower[2], lower[3] + 1, lower[4] + 1, lower[5] + 1)


def test_of_a_large_pass_on_a_device_those_rows_alone_are_read_that_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    num_rounded = []

    def counted(states: torch.Tensor) -> torch.Tensor:
        num_rounded.append(len(states))
        return states.bfloat16()

    monkeypatch.setattr(hidden_values, "rounded", counted)
    monkeypatch.setattr(hidden_values, "_is_native", lambda part: False)
    values = PassValues([torch.ones(2000, 3)])
    assert len(values.of(range(1990, 2000), [0])) == 10 * 3 * 2
    assert num_rounded == [10]


@pytest.mark.parametrize("num_rows", [4, 500])
def test_the_cpu_rounds_as_torch_does(num_rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """All bits but those of NaNs, of which torch's own kernels make others for the last numbers of a row."""
    torch.manual_seed(0)
    any_bits = torch.randint(-(2**31), 2**31, (3, num_rows, 67)).int().view(torch.float32)
    hidden = list(torch.where(any_bits.isnan(), torch.zeros(()), any_bits))
    hidden[0][0, :4] = torch.tensor([torch.inf, -torch.inf, -0.0, 3.4e38])
    hidden[1][1, 5] = torch.nan
    rows, places = [1, 0, num_rows - 1], [0, 1, 2]
    native = PassValues(hidden).of(rows, places)
    monkeypatch.setattr(hidden_values, "_is_native", lambda part: False)
    by_torch = PassValues(hidden).of(rows, places)
    found, expected = (torch.frombuffer(bytearray(each), dtype=torch.bfloat16) for each in (native, by_torch))
    is_nan = expected.isnan()
    assert int(is_nan.sum()) == 1
    assert torch.equal(found.isnan(), is_nan)
    assert torch.equal(found[~is_nan].view(torch.int16), expected[~is_nan].view(torch.int16))


def test_rows_that_are_not_there_are_an_error() -> None:
    for row in (2, -1):
        with pytest.raises(IndexError, match=r"of rows .*; the pass has 2"):
            PassValues([torch.ones(2, 3)]).of([0, row], [0])


@pytest.mark.parametrize("num_rows", [4, 500])
def test_rows_and_layers_come_as_they_are_asked_for_and_back(num_rows: int) -> None:
    hidden = [(torch.arange(num_rows * 3.0).view(num_rows, 3) % 50) + 100 * layer for layer in range(3)]
    values = PassValues(hidden)
    for rows, places in (([2], [0, 1, 2]), ([3, 1], [0, 2]), (range(1, 3), [1])):
        states = HiddenStates(5, len(rows), tuple(places), values.of(rows, places))
        states.check()
        expected = torch.cat([hidden[place][list(rows)] for place in places], dim=1)
        assert torch.equal(tensor_of(states), expected)

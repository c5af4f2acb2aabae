"""Choices on a GPU are those of the CPU, to the last bit of the noise."""

from __future__ import annotations

import pytest
import torch

from specgrove.kernels import sampling
from specgrove.kernels.cuda.choices import choose
from specgrove.kernels.model_step import ALL_BANNED, NOT_A_NUMBER
from specgrove.kernels.sampling import ChoiceParams

INFINITY = float("inf")


def chosen(logits: torch.Tensor, rows: list[tuple[float, int, int]], device: torch.device) -> list[int]:
    """``rows``: temperature, seed and position of each."""
    temperatures, seeds, positions = zip(*rows, strict=True)
    out = torch.full((len(rows),), -99, device=device)
    choose(
        logits.to(device),
        torch.tensor(temperatures, device=device),
        torch.tensor(seeds, device=device),
        torch.tensor(positions, device=device),
        out,
    )
    return out.tolist()


@pytest.mark.parametrize("vocab_size", [1, 7, 1000, 1027])
@pytest.mark.parametrize("spread", [0.0, 1.0, 20.0])
def test_choices_are_those_of_the_cpu(device: torch.device, vocab_size: int, spread: float) -> None:
    generator = torch.Generator().manual_seed(vocab_size)
    rows = [(0.0, 0, 0), (0.7, 1, 5), (1.0, 2**40 + 3, 2**33), (3.0, 2**63 - 1, 17), (0.01, 9, 0), (1.0, 4, 4)]
    logits = spread * torch.randn(len(rows), vocab_size, generator=generator)
    logits[5, : vocab_size // 2] = -INFINITY
    expected = [
        sampling.choose(own, ChoiceParams(temperature=temperature, seed=seed), position)
        for own, (temperature, seed, position) in zip(logits, rows, strict=True)
    ]
    assert chosen(logits, rows, device) == expected


def test_ties_go_to_the_lower_id(device: torch.device) -> None:
    logits = torch.zeros(2, 900)
    logits[0, [700, 100, 899]] = 3.0
    logits[1] = -0.0
    logits[1, 800:] = 0.0
    assert chosen(logits, [(0.0, 0, 0)] * 2, device) == [100, 0]


def test_where_nothing_can_be_chosen(device: torch.device) -> None:
    logits = torch.randn(4, 600)
    logits[0, 599] = torch.nan
    logits[1, 3] = torch.nan
    logits[2:] = -INFINITY
    expected = [NOT_A_NUMBER, NOT_A_NUMBER, ALL_BANNED, ALL_BANNED]
    assert chosen(logits, [(0.0, 0, 0), (1.0, 0, 0)] * 2, device) == expected

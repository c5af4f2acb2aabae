"""Choices on a GPU are those of the CPU, to the last bit of the noise, and so are the most probable tokens."""

from __future__ import annotations

import pytest
import torch

from specgrove.kernels import sampling
from specgrove.kernels.cuda.choices import choose, take_choices, top_k_log_probs
from specgrove.kernels.rows import ALL_BANNED, NOT_A_NUMBER
from specgrove.kernels.sampling import ChoiceParams
from tests.kernels.cuda.conftest import assert_as_exact_as_torch, poisoned

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


def most_probable(logits: torch.Tensor, k: int, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    log_probs = poisoned(len(logits), k, dtype=torch.float32, device=device)
    token_ids = torch.full((len(logits), k), -99, dtype=torch.int32, device=device)
    top_k_log_probs(logits.to(device), k, log_probs, token_ids)
    return log_probs.cpu(), token_ids.cpu()


def assert_those_of_the_cpu(logits: torch.Tensor, k: int, device: torch.device) -> None:
    log_probs, token_ids = most_probable(logits, k, device)
    expected, expected_ids = sampling.top_k_log_probs(logits, k)
    assert torch.equal(token_ids.long(), expected_ids)
    torch.testing.assert_close(log_probs, expected, rtol=1e-6, atol=4e-6)


@pytest.mark.parametrize("vocab_size", [1, 7, 64, 1000, 1024, 1027, 4097])
@pytest.mark.parametrize("spread", [0.0, 1.0, 20.0])
def test_the_most_probable_are_those_of_the_cpu(device: torch.device, vocab_size: int, spread: float) -> None:
    generator = torch.Generator().manual_seed(vocab_size)
    logits = spread * torch.randn(3, vocab_size, generator=generator)
    logits[2, : vocab_size // 2] = -INFINITY
    for k in {1, min(8, vocab_size), min(64, vocab_size)}:
        assert_those_of_the_cpu(logits, k, device)


@pytest.mark.parametrize("vocab_size", [50, 3000])
def test_equally_probable_ones_come_by_their_ids(device: torch.device, vocab_size: int) -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randint(-1, 2, (4, vocab_size), generator=generator).float()
    logits[1] *= -0.0
    logits[2] = -INFINITY
    logits[2, 30] = -4.0
    logits[3, 40:] = 3.0
    assert_those_of_the_cpu(logits, 45, device)


def test_the_most_probable_may_all_be_one_threads(device: torch.device) -> None:
    """Logits 1024 apart, falling, rising and in no order."""
    logits = torch.zeros(3, 40 * 1024)
    order = torch.randperm(40, generator=torch.Generator().manual_seed(0))
    logits[:, 5::1024] = torch.stack([40 - torch.arange(40), torch.arange(40), order]).float()
    assert_those_of_the_cpu(logits, 41, device)


def test_log_probs_are_exact(device: torch.device) -> None:
    logits = 100 + 5 * torch.randn(3, 5000, generator=torch.Generator().manual_seed(0))
    logits[2, 4000:] = 1e30
    log_probs, token_ids = most_probable(logits, 20, device)
    exact = logits.double().log_softmax(-1).gather(1, token_ids.long())
    in_torch = logits.log_softmax(-1).gather(1, token_ids.long())
    assert_as_exact_as_torch(log_probs, in_torch, exact)


def test_a_rows_most_probable_do_not_depend_on_other_rows(device: torch.device) -> None:
    logits = torch.randn(4, 2500)
    together, alone = most_probable(logits, 9, device), [most_probable(own[None], 9, device) for own in logits]
    for found, rows in zip(together, zip(*alone, strict=True), strict=True):
        assert torch.equal(found, torch.cat(rows))


@pytest.mark.parametrize("vocab_size", [1, 900, 2000])
def test_rows_without_a_distribution_are_marked(device: torch.device, vocab_size: int) -> None:
    logits = torch.randn(5, vocab_size)
    logits[0, -1] = torch.nan
    logits[1, vocab_size // 2] = -torch.nan
    logits[2] = -INFINITY
    logits[3, 0] = INFINITY
    log_probs, token_ids = most_probable(logits, 1, device)
    assert token_ids.flatten().tolist() == [-1, -1, -1, -1, int(logits[4].argmax())]
    assert log_probs.isnan().flatten().tolist() == [True] * 4 + [False]


@pytest.mark.parametrize("k", [0, 8])
def test_k_is_checked(device: torch.device, k: int) -> None:
    with pytest.raises(ValueError, match="k must be from 1 to 7"):
        most_probable(torch.randn(2, 7), k, device)


def test_choices_are_taken_over(device: torch.device) -> None:
    token_ids = torch.tensor([5, -1, 0, -3, -2, -4], dtype=torch.int32, device=device)
    take_choices(token_ids, torch.tensor([70, 2, -2, 9], device=device))
    assert token_ids.tolist() == [5, 70, 0, 0, 2, 9]

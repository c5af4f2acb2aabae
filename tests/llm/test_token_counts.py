"""What penalties count: the same as counting anew, and a step looks at its own tokens alone."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from llm_service.session import Session
from llm_service.token_counts import CountsAhead, TokenCounts
from specgrove.loop.request import SamplingParams

_tokens = st.lists(st.integers(0, 9), max_size=40)


def _told(counts: CountsAhead) -> dict[int, int]:
    return dict(zip(counts.token_ids.tolist(), counts.counts.tolist(), strict=True))


@given(st.lists(_tokens, max_size=3), _tokens)
def test_counts_are_those_of_counting_anew(parts: list[list[int]], ahead: list[int]) -> None:
    """Of what was committed part by part, and of what is chosen after that, which changes nothing that was committed."""
    counts = TokenCounts()
    for part in parts:
        counts.add(part)
    committed = [token_id for part in parts for token_id in part]
    found = CountsAhead(counts, len(ahead))
    for number, token_id in enumerate(ahead, 1):
        found.add(token_id)
        assert _told(found) == Counter(committed + ahead[:number])
    assert len(found.token_ids) == len(set(committed + ahead))
    assert _told(CountsAhead(counts, 0)) == Counter(committed)


def test_a_step_behind_a_long_output_goes_through_its_own_tokens_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever is looked at one by one becomes a tensor first."""
    session = Session("a", SamplingParams(frequency_penalty=0.5), prompt_len=1)
    session.extend(tuple(range(3000)))
    made_lens, tensor = [], torch.tensor

    def recorded(values: Sequence[int], **options: Any) -> torch.Tensor:
        made_lens.append(len(values))
        return tensor(values, **options)

    monkeypatch.setattr(torch, "tensor", recorded)
    CountsAhead(session.output_counts, 1).add(7)
    session.extend((7,))
    assert sum(made_lens) <= 2
    assert _told(CountsAhead(session.output_counts, 0)) == Counter({**dict.fromkeys(range(1, 3000), 1), 7: 2})
    assert session.seen.place_of(0) is not None
    assert session.output_counts.place_of(0) is None


def test_without_penalties_nothing_is_counted() -> None:
    session = Session("a", SamplingParams(temperature=1.0), prompt_len=1)
    session.extend((1, 2, 3))
    assert len(session.seen) == len(session.output_counts) == 0

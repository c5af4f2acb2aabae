"""What an item must be before the verifier takes it in: sampling parameters in which a choice could not be made."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from llm_service.config import VerifierConfig
from llm_service.work_check import check_work
from specgrove.errors import InvalidRequestError
from specgrove.loop.request import SamplingParams
from specgrove.loop.works import SessionParams
from specgrove.ranges import SAMPLING_RANGES
from tests.llm.verifying import PROMPT, opening

CONFIG = VerifierConfig(max_model_len=64)
MOST = SamplingParams(
    temperature=100, top_p=0, min_p=1, repetition_penalty=10, presence_penalty=-2, frequency_penalty=2,
    logit_bias=((99, 100.0), (0, -100.0)), stop_token_ids=(99,), num_log_probs=20,
)  # fmt: skip


def check(sampling: SamplingParams) -> None:
    work = replace(opening("s", PROMPT), session=SessionParams(sampling, len(PROMPT)))
    check_work(work, CONFIG, vocab_size=100, num_slots=64, hidden_layers=range(3))


@pytest.mark.parametrize(
    ("field", "value", "problem"),
    [
        ("temperature", float("nan"), "must be in [0, 100], got nan"),
        ("temperature", -0.1, "must be in [0, 100]"),
        ("top_p", float("inf"), "must be in [0, 1]"),
        ("min_p", 1.5, "must be in [0, 1]"),
        ("repetition_penalty", 0.0, "must be in [0.01, 10]"),
        ("presence_penalty", -2.5, "must be in [-2, 2]"),
        ("frequency_penalty", float("-inf"), "must be in [-2, 2]"),
        ("logit_bias", ((4, float("nan")),), "must be in [-100, 100]"),
        ("logit_bias", ((100, 1.0),), "ids must be below the vocabulary's size 100"),
        ("stop_token_ids", (2, 100), "ids must be below the vocabulary's size 100"),
        ("num_log_probs", 21, "must be at most 20"),
    ],
)
def test_sampling_that_allows_no_choice_is_refused_by_field(field: str, value: object, problem: str) -> None:
    check(MOST)
    with pytest.raises(InvalidRequestError) as error:
        check(replace(MOST, **{field: value}))  # type: ignore[arg-type]
    (violation,) = error.value.violations
    assert violation.field == f"session.sampling.{field}"
    assert problem in violation.description


@pytest.mark.parametrize("field", sorted(SAMPLING_RANGES))
@pytest.mark.parametrize("bound", ["low", "high"])
def test_bounds_are_allowed_also_in_the_wires_32_bits(field: str, bound: str) -> None:
    value = float(f"{getattr(SAMPLING_RANGES[field], bound):g}")
    for sent in (value, float(np.float32(value))):
        assert SAMPLING_RANGES[field].problem(sent) is None
        check(replace(MOST, **{field: sent}))  # type: ignore[arg-type]


def test_no_more_log_probs_than_there_are_tokens() -> None:
    work = replace(opening("s", [1]), session=SessionParams(SamplingParams(num_log_probs=4), 1))
    check_work(work, CONFIG, vocab_size=4, num_slots=64, hidden_layers=range(3))
    with pytest.raises(InvalidRequestError, match="must be at most 3"):
        check_work(work, CONFIG, vocab_size=3, num_slots=64, hidden_layers=range(3))

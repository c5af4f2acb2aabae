"""What a suite that runs says of itself."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

from specgrove.client import Client
from specgrove.doctor import places
from specgrove.doctor.findings import Level
from specgrove.errors import DeadlineExceededError


class Unanswering:
    """Of a router whose LLM service is away: it knows what it serves, and waits."""

    def model_info(self) -> SimpleNamespace:
        return SimpleNamespace(model="m", dtype="bfloat16", ssms=("lookup",), version="1", max_model_len=8)

    def complete(self, prompt: str, *, timeout_s: float | None = None, **_: Any) -> None:
        assert timeout_s is not None
        raise DeadlineExceededError("the request's deadline passed")


def test_a_suite_that_gives_no_answer_is_not_waited_for_without_end() -> None:
    *others, last = places.running_suite(cast("Client", Unanswering()), "router:1", "1")
    assert [(finding.area, finding.level) for finding in others] == [("suite", Level.OK), ("SSMs", Level.OK)]
    assert (last.area, last.level) == ("answers", Level.ERROR)
    assert "the LLM service is away, or has very much to do" in last.text

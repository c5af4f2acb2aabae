"""``specgrove top``: rates between two looks, what is shown, and a real router's numbers."""

from __future__ import annotations

import argparse
import asyncio
import io
import json
from dataclasses import replace

import pytest
import rich.console

from specgrove.cli import main, top
from specgrove.cli.stats_rates import ServiceRates, SsmRates, rates_of
from specgrove.client.stats import Load, RouterStats, ServiceStats, SpeculationStats, SsmStats, Timing
from specgrove.errors import UnavailableError
from specgrove.v1 import router_pb2
from tests.router.toy_suite import toy_suite

SPECULATION = SpeculationStats(
    num_verify_steps=60, num_drafts=20, num_draft_tokens=80, num_accepted_tokens=30, num_accepted_by_position=(18, 12),
    ssms=(SsmStats("lookup", 20, 60, 24), SsmStats("demo", 10, 30, 8, is_paused=True)),
    speculative_s=2.0, incremental_equivalent_s=3.0, num_replays=0,
)  # fmt: skip
LOAD = Load(3, 1, 1000, 750, 2, 100, 800, 2500.0)
LLM = ServiceStats("llm_service", "unix:/l", True, 0, LOAD)
SSM = ServiceStats("ssm_service", "unix:/s", False, 2, None)
NOW = RouterStats(
    model="m", version="1", uptime_s=3700.0, num_running_requests=2, num_waiting_requests=1,
    num_finished_by_reason={"stop": 8, "length": 2}, num_failed_by_code={"INTERNAL": 1}, num_prompt_tokens=500, num_output_tokens=90,
    queue=Timing(10, 0.1), first_token=Timing(10, 2.0), between_tokens=Timing(80, 0.8), duration=Timing(10, 20.0),
    speculation=SPECULATION, services=(LLM, SSM),
)  # fmt: skip


def test_the_first_look_is_since_the_routers_start() -> None:
    rates = rates_of(None, NOW, seconds=0.0)
    assert rates.seconds == 3700
    assert rates.output_tokens_per_s == 90 / 3700
    assert (rates.tokens_per_step, rates.acceptance_len, rates.drafted_share) == (1.5, 2.5, 20 / 60)
    assert rates.acceptance_by_position == (0.9, 0.6)
    assert rates.speedup == 1.5
    assert (rates.first_token_ms, rates.between_tokens_ms) == (pytest.approx(200), pytest.approx(10))
    assert rates.ssms == (
        SsmRates("lookup", 20 / 3700, 3.0, 1.2),
        SsmRates("demo", 10 / 3700, 3.0, 0.8, is_paused=True),
    )
    assert rates.services == (ServiceRates(None, 25.0, 8.0), ServiceRates(None, None, None))


def test_later_looks_are_of_the_time_between() -> None:
    later = replace(
        NOW,
        uptime_s=3702.0,
        num_finished_by_reason={"stop": 9, "length": 2},
        num_output_tokens=110,
        speculation=replace(
            SPECULATION,
            num_verify_steps=70,
            num_drafts=30,
            num_accepted_tokens=40,
            num_accepted_by_position=(24, 15, 1),
            ssms=(
                replace(SPECULATION.ssms[0], num_drafts=30, num_draft_tokens=100, num_accepted_tokens=34),
                SPECULATION.ssms[1],
            ),
        ),
        services=(replace(LLM, load=replace(LOAD, num_passes=110, total_pass_ms=2600.0)), SSM),
    )
    rates = rates_of(NOW, later, seconds=2.0)
    assert (rates.finished_per_s, rates.failed_per_s, rates.output_tokens_per_s) == (0.5, 0, 10)
    assert (rates.tokens_per_step, rates.acceptance_len, rates.drafted_share) == (2.0, 2.0, 1.0)
    assert rates.acceptance_by_position == (0.6, 0.3, 0.1)
    assert (rates.first_token_ms, rates.speedup) == (None, None)
    assert rates.ssms == (SsmRates("lookup", 5.0, 4.0, 1.0), SsmRates("demo", 0.0, None, None, is_paused=True))
    assert rates.services[0] == ServiceRates(5.0, 10.0, 0.0)


def test_a_router_that_was_started_anew_counts_from_its_start() -> None:
    assert rates_of(NOW, replace(NOW, uptime_s=10.0, num_output_tokens=50), seconds=2.0).output_tokens_per_s == 5


def shown(look: top.Look) -> str:
    text = io.StringIO()
    rich.console.Console(file=text, width=80).print(top.frame(look, "h:1"))
    return text.getvalue()


def test_a_frame_tells_all_of_it() -> None:
    text = shown(top.Look(NOW, rates_of(None, NOW, 0.0)))
    for words in (
        "m, SpecGrove 1 at h:1, up 1 h 1 min", "2 running, 1 waiting", "first 200 ms, between two 10 ms", "2000 ms, in the queue 10 ms",
        "1.50 tokens per step, 1.50 times as fast", "in 33% of steps, 2.50 tokens each", "90% 60%",
    ):  # fmt: skip
        assert words in text
    rows = {line.split()[0]: line.split() for line in text.splitlines() if line.strip()}
    assert rows["demo"][1] == "paused"
    assert rows["lookup"] == ["lookup", "there", "0.0", "3.0", "1.20"]
    assert rows["llm_service"][1:] == ["there", "2,", "1", "wait", "250/1000", "-", "25.0", "8.0", "0"]
    assert rows["ssm_service"] == ["ssm_service", "away", "-", "-", "-", "-", "-", "2"]


def test_a_full_frame_fits_80_characters_and_no_line_ends_with_blanks() -> None:
    load = replace(LOAD, num_slots=32768, num_free_slots=0, num_sessions=64, num_waiting_sessions=12)
    look = replace(NOW, services=(replace(LLM, load=load), replace(SSM, is_connected=True)))
    lines = shown(top.Look(look, rates_of(None, look, 0.0))).splitlines()
    assert [line for line in lines if line != line.rstrip()] == []
    assert sum("service" in line for line in lines) == 3  # the head and two rows
    row = next(line for line in lines if line.startswith("llm_service "))
    assert "52, 12 wait" in row
    assert "32768/32768" in row
    assert any(line.startswith("ssm_service  no answer ") for line in lines)


def test_replicas_are_told_apart_by_their_addresses() -> None:
    ready = replace(LLM, address="10.244.0.7:50052")
    draining = replace(LLM, address="10.244.12.113:50052", is_draining=True)
    look = replace(NOW, services=(ready, draining, SSM))
    text = shown(top.Look(look, rates_of(None, look, 0.0)))
    assert max(map(len, text.splitlines())) <= 80
    words = text[text.index("llm_service") :].split()
    assert [word for word in words if ":" in word or word in ("there", "draining", "ssm_service")] == [
        "there", "10.244.0.7:50052", "draining", "10.244.12.113:50052", "ssm_service",
    ]  # fmt: skip


class _Client:
    """Answers with what it was given; then the user has had enough."""

    def __init__(self, *answers: RouterStats | UnavailableError) -> None:
        self._answers = list(answers)

    def stats(self) -> RouterStats:
        if not self._answers:
            raise KeyboardInterrupt
        answer = self._answers.pop(0)
        if isinstance(answer, UnavailableError):
            raise answer
        return answer


def test_on_a_terminal_a_router_that_is_away_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(top.time, "sleep", lambda seconds: None)
    client = _Client(NOW, UnavailableError("connection refused"), replace(NOW, model="back again", uptime_s=1.0))
    text = io.StringIO()
    console = rich.console.Console(file=text, force_terminal=True, width=120, height=40)
    with pytest.raises(KeyboardInterrupt):
        top._watch(client, argparse.Namespace(interval_s=1.0, address="h:1"), console)  # type: ignore[arg-type]
    assert "no answer: connection refused" in text.getvalue()
    assert "back again, SpecGrove" in text.getvalue()


@pytest.mark.parametrize("words", [["--json"], []])
async def test_a_running_router_is_looked_at_once(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    async with toy_suite() as suite:
        async for _ in suite.stub.Generate(router_pb2.GenerateRequest(text="Hello, tree", max_tokens=5)):
            pass
        asked = ["top", "--address", suite.app.server.address, "--once", "--interval-s", "0.01", *words]
        assert await asyncio.to_thread(main, asked) == 0
    printed = capsys.readouterr().out
    if not words:
        assert "toy, SpecGrove" in printed
        return
    look = json.loads(printed)
    assert look["stats"]["num_output_tokens"] == 5
    assert look["rates"]["output_tokens_per_s"] == 0
    assert [service["service"] for service in look["stats"]["services"]] == ["llm_service", "ssm_service"]


def test_where_no_router_is_it_is_said_what_to_do(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["top", "--address", "unix:/nowhere", "--once"]) == 1
    assert "start one with `specgrove serve`" in capsys.readouterr().err

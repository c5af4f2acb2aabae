"""Replicas measured one by one, again where they could not at first, and each with its own sessions."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from router import llm_replica
from router.llm_replicas import LlmPool
from router.remote_verifier import RemoteVerifier
from specgrove.v1 import llm_pb2, token_tree_pb2
from tests.router.checking import MODEL
from tests.router.generating import PROMPT, request_of, responses_to, token_ids_of
from tests.router.toy_language import toy_output
from tests.router.toy_services import ToyLlm
from tests.router.toy_suite import toy_suite
from tests.waiting import until


class _Busy(ToyLlm):
    """Fails to measure itself, then is kept from it by requests, then does."""

    def __init__(self) -> None:
        super().__init__()
        self.num_asked = 0

    async def Warmup(self, request: Any, context: Any) -> llm_pb2.LlmServiceWarmupResponse:  # noqa: N802
        self.num_asked += 1
        if self.num_asked == 1:
            raise RuntimeError("not now")
        times = [token_tree_pb2.PassTime(num_rows=n, pass_ms=10.0) for n in (1, 8)[: self.num_asked - 1]]
        return llm_pb2.LlmServiceWarmupResponse(pass_times=times, is_complete=self.num_asked == 3)


async def test_a_replica_that_can_not_measure_itself_is_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(llm_replica, "_WARMUP_WAITS_S", (0.0, 0.0, 0.0, 0.0, 0.0))
    llm = _Busy()
    async with toy_suite(llm) as suite:
        await until(lambda: llm.num_asked == 3)
        (replica,) = suite.app.llms.replicas
        await replica.measured()
        assert llm.num_asked == 3
        assert replica.row_times.is_known


async def test_a_replica_that_never_measures_itself_is_learnt_from_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(llm_replica, "_WARMUP_WAITS_S", ())
    async with toy_suite() as suite:
        (replica,) = suite.app.llms.replicas
        assert not replica.row_times.is_known
        responses = await responses_to(suite, request_of())
        assert token_ids_of(responses) == toy_output(PROMPT, 60)
        assert replica.row_times.is_known
        assert replica.row_times.ms(1) == pytest.approx(1.0, rel=0.3)  # what the toy says that its steps take


async def test_each_replica_counts_its_own_sessions() -> None:
    pool = LlmPool(["unix:/nowhere/a.sock", "unix:/nowhere/b.sock"])
    first, second = pool.replicas
    first.session_lens.update({"s1": 10, "s2": 20, "s3": 30})
    second.session_lens.update({"t1": 1000})
    assert pool.load_of("s2").num_sessions == 3
    assert pool.load_of("s2").row_times is first.row_times
    assert pool.load_of("t1").num_sessions == 1
    # One that is nowhere yet would come to the replica with the fewest tokens, and count there too.
    assert pool.load_of("new").row_times is first.row_times
    assert pool.load_of("new", num_requests=5).num_sessions == 4
    # Of nine requests five are under way to one of the two.
    assert pool.load_of("s2", num_requests=9).num_sessions == 3 + 3
    assert pool.load_of("t1", num_requests=9).num_sessions == 1 + 3
    await pool.close()


@pytest.mark.parametrize(("num_parameters", "wait_s"), [(0, 300.0), (8_000_000_000, 300.0), (70_000_000_000, 1400.0)])
def test_a_lost_llm_is_waited_for_as_long_as_one_of_its_size_may_load(num_parameters: int, wait_s: float) -> None:
    pool: Any = SimpleNamespace(model=replace(MODEL, num_parameters=num_parameters))
    assert RemoteVerifier(pool, replica_wait_s=None, busy_wait_s=1.0).replica_wait_s == wait_s
    assert RemoteVerifier(pool, replica_wait_s=7.0, busy_wait_s=1.0).replica_wait_s == 7.0

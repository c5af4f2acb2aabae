"""What goes wrong behind the router: services that die, drain, forget, are full, slow or talk nonsense. Outputs stay exact."""

from __future__ import annotations

import asyncio
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from router.llm_replicas import LlmPool
from specgrove.errors import InternalError, InvalidRequestError, ResourceExhaustedError
from specgrove.loop.token_tree import TokenTree
from specgrove.loop.works import Verdict, VerifyWork
from specgrove.serving.status import error_from_rpc
from specgrove.v1 import router_pb2
from tests.router.generating import PROMPT, request_of, responses_to, token_ids_of
from tests.router.toy_language import toy_output
from tests.router.toy_services import ToyLlm, halting_llm
from tests.router.toy_ssm import ToySsm
from tests.router.toy_suite import llm_server, toy_suite
from tests.waiting import recorded_waits, until


async def test_forgetful_services_are_sent_the_tokens_again() -> None:
    llm, ssm = ToyLlm(), ToySsm()
    llm.forget_probability = ssm.forget_probability = 0.3
    async with toy_suite(llm, ssm) as suite:
        responses = await responses_to(suite, request_of(max_tokens=100))
        assert token_ids_of(responses) == toy_output(PROMPT, 100)
        assert responses[-1].usage.num_replays > 0


async def test_an_llm_service_that_is_restarted_in_mid_stream() -> None:
    async with toy_suite(halting_llm(10)) as suite:
        generating = asyncio.create_task(responses_to(suite, request_of(max_tokens=200)))
        await until(lambda: suite.llm.num_verified >= 10)
        await suite.restart_llm(ToyLlm())
        responses = await generating
        assert token_ids_of(responses) == toy_output(PROMPT, 200)
        assert responses[-1].usage.num_replays >= 1
        assert suite.llm.num_verified > 0


async def test_an_llm_service_that_drains_in_mid_stream() -> None:
    async with toy_suite(halting_llm(10)) as suite:
        generating = asyncio.create_task(responses_to(suite, request_of(max_tokens=200)))
        await until(lambda: suite.llm.num_verified >= 10)
        await suite.drain_llm()
        await suite.restart_llm(ToyLlm())
        assert token_ids_of(await generating) == toy_output(PROMPT, 200)
        assert suite.llm.num_verified > 0


async def test_an_ssm_service_that_is_restarted_in_mid_stream_drafts_again() -> None:
    async with toy_suite(halting_llm(1)) as suite:
        generating = asyncio.create_task(responses_to(suite, request_of(max_tokens=300)))
        await until(lambda: bool(suite.llm.finished_early))
        suite.llm.num_free_steps = 20
        suite.llm.gate.set()
        suite.llm.gate.clear()  # the step that waits goes on
        await until(lambda: len(suite.ssm.asked) >= 5)
        await suite.restart_ssm(ToySsm())
        await until(lambda: all(replica.client.connected.is_set() for replica in suite.app.ssms.replicas))
        suite.llm.gate.set()
        assert token_ids_of(await generating) == toy_output(PROMPT, 300)
        assert len(suite.ssm.asked) > 0


async def test_without_llm_the_router_is_not_serving_and_a_request_ends_after_its_wait() -> None:
    async with toy_suite(replica_wait_s=0.3) as suite:
        health = health_pb2_grpc.HealthStub(suite.channel)
        await suite.llm_server.stop(0)
        await until(lambda: not suite.app.llms.is_usable)
        with pytest.raises(grpc.aio.AioRpcError) as info:
            await responses_to(suite, request_of())
        assert info.value.code() is grpc.StatusCode.UNAVAILABLE
        answer = await health.Check(health_pb2.HealthCheckRequest(service="specgrove.v1.RouterService"))
        assert answer.status == health_pb2.HealthCheckResponse.NOT_SERVING
        await suite.restart_llm(ToyLlm())
        await until(lambda: suite.app.llms.is_usable)
        assert token_ids_of(await responses_to(suite, request_of())) == toy_output(PROMPT, 60)


async def test_cancelling_closes_the_session_on_both_sides() -> None:
    async with toy_suite(ToyLlm(step_s=0.01)) as suite:
        call = suite.stub.Generate(request_of(max_tokens=400))
        while not suite.ssm.sessions:
            await call.read()
        call.cancel()
        await until(lambda: bool(suite.llm.closed and suite.ssm.closed))
        assert not suite.llm.sessions
        assert not suite.ssm.sessions
        await until(lambda: suite.app.admission.num_active == 0)


async def test_the_deadline_ends_the_request_and_closes_its_session() -> None:
    async with toy_suite(ToyLlm(step_s=0.02)) as suite:
        with pytest.raises(grpc.aio.AioRpcError) as info:
            async for _ in suite.stub.Generate(request_of(max_tokens=400), timeout=0.3):
                pass
        assert info.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        await until(lambda: not suite.llm.sessions and not suite.ssm.sessions)
        assert suite.llm.num_verified < 400


async def test_a_full_queue_says_when_to_try_again() -> None:
    async with toy_suite(halting_llm(0), max_num_requests=1, max_num_queued=1) as suite:
        first = asyncio.create_task(responses_to(suite, request_of(max_tokens=30)))
        await until(lambda: suite.app.admission.num_active == 1)
        second = asyncio.create_task(responses_to(suite, request_of(max_tokens=5)))
        await until(lambda: suite.app.admission.num_queued == 1)
        with pytest.raises(grpc.aio.AioRpcError) as info:
            await responses_to(suite, request_of())
        error = error_from_rpc(info.value)
        assert isinstance(error, ResourceExhaustedError)
        assert error.retry_delay_ms >= 100
        suite.llm.gate.set()
        assert token_ids_of(await first) == toy_output(PROMPT, 30)
        assert token_ids_of(await second) == toy_output(PROMPT, 5)


async def test_a_full_llm_service_is_asked_again() -> None:
    llm = ToyLlm()
    llm.num_full = 3
    async with toy_suite(llm) as suite:
        assert token_ids_of(await responses_to(suite, request_of())) == toy_output(PROMPT, 60)
    llm.num_full = 1_000_000
    delays_ms = set()
    async with toy_suite(llm, busy_wait_s=0.1) as suite:
        calls = [responses_to(suite, request_of()) for _ in range(5)]
        for outcome in await asyncio.gather(*calls, return_exceptions=True):
            assert isinstance(outcome, grpc.aio.AioRpcError)
            error = error_from_rpc(outcome)
            assert isinstance(error, ResourceExhaustedError)
            delays_ms.add(error.retry_delay_ms)
    # Refused together, told different times.
    assert len(delays_ms) > 1
    assert all(500 <= delay_ms <= 1500 for delay_ms in delays_ms)


async def test_a_service_that_gets_full_while_it_makes_steps_ahead_is_sent_the_tokens_again() -> None:
    llm = ToyLlm()
    llm.full_after = 5
    async with toy_suite(llm) as suite:
        incremental = request_of(speculation=router_pb2.SpeculationOptions(disabled=True))
        assert token_ids_of(await responses_to(suite, incremental)) == toy_output(PROMPT, 60)
    assert llm.full_after is None


def _cycle(tree: TokenTree) -> TokenTree:
    return TokenTree(tree.token_ids, (1, *tree.parents[1:]), tree.log_probs, tree.sources)


def _child_first(tree: TokenTree) -> TokenTree:
    return TokenTree(tree.token_ids, (-1, *(99 for _ in tree.parents[1:])), tree.log_probs, tree.sources)


def _out_of_range(tree: TokenTree) -> TokenTree:
    return TokenTree((tree.token_ids[0], *(999 for _ in tree.parents[1:])), tree.parents, tree.log_probs, tree.sources)


def _wrong_root(tree: TokenTree) -> TokenTree:
    return TokenTree((7, *tree.token_ids[1:]), tree.parents, tree.log_probs, tree.sources)


def _lengths_differ(tree: TokenTree) -> TokenTree:
    return TokenTree(tree.token_ids, tree.parents, tree.log_probs[:-1], tree.sources)


def _nan(tree: TokenTree) -> TokenTree:
    return TokenTree(tree.token_ids, tree.parents, (0.0, *(float("nan") for _ in tree.parents[1:])), tree.sources)


def _too_deep(tree: TokenTree) -> TokenTree:
    token_ids = (tree.token_ids[0], *([1] * 40))
    return TokenTree(token_ids, tuple(range(-1, 40)), (0.0, *([-1.0] * 40)), (0,) * 41)


@pytest.mark.parametrize("spoil", [_cycle, _child_first, _out_of_range, _wrong_root, _lengths_differ, _nan, _too_deep])
async def test_malformed_trees_cost_speed_only(spoil: Any) -> None:
    ssm = ToySsm()
    ssm.spoil = spoil
    async with toy_suite(ssm=ssm) as suite:
        responses = await responses_to(suite, request_of(max_tokens=20))
        assert token_ids_of(responses) == toy_output(PROMPT, 20)
        assert responses[-1].usage.num_drafted_nodes == 0


async def test_a_slow_ssm_costs_speed_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """While it reads the prompt the verifier goes on by itself; nobody waits."""
    ssm = ToySsm()
    ssm.gate.clear()
    async with toy_suite(ssm=ssm) as suite:
        waits = recorded_waits(monkeypatch)
        assert token_ids_of(await responses_to(suite, request_of(max_tokens=40))) == toy_output(PROMPT, 40)
        assert not waits  # what a router that stops waits for comes later
        ssm.gate.set()
    assert len(ssm.asked) == 1


async def test_new_requests_avoid_a_replica_that_does_not_answer() -> None:
    class Silent(ToyLlm):
        """Connected, and stopped since."""

        async def GetLoad(self, request: Any, context: Any) -> Any:  # noqa: N802
            await asyncio.Event().wait()

    silent = Silent()
    server = llm_server(silent)
    async with toy_suite() as suite:
        pool = LlmPool((await server.start(), suite.llm_server.address))
        pool.start(lambda is_usable: None)
        first, second = pool.replicas
        await until(lambda: first.is_usable and second.is_usable)
        await until(lambda: not first.is_answering and second.is_answering)
        assert {(await pool.place(f"s{index}", 1.0)) for index in range(6)} == {second}
        second.is_draining = True  # better than nobody
        assert await pool.place("another", 1.0) is first
        await pool.close()
    await server.stop(0)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"numerics": ["weights toy", "cpu other"]}, "it has cpu other, this router serves cpu toy"),
        ({"protocol_version": 0}, "it speaks version 0 of the protocol"),
    ],
)
async def test_a_replica_whose_outputs_would_differ_is_refused(
    fields: dict[str, Any], message: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    async with toy_suite() as suite:
        other = ToyLlm()
        for name, value in fields.items():
            setattr(other, name, value)
        suite.llm.gate.clear()
        generating = asyncio.create_task(responses_to(suite, request_of(max_tokens=100)))
        await until(lambda: bool(suite.llm.sessions))
        await suite.restart_llm(other)
        await until(lambda: message in caplog.text)
        assert not suite.app.llms.is_usable
        await suite.restart_llm(ToyLlm())
        assert token_ids_of(await generating) == toy_output(PROMPT, 100)


class Refusing(ToyLlm):
    """Refuses its fourth step."""

    def __init__(self, field: str) -> None:
        super().__init__()
        self.field = field

    async def _step(self, work: VerifyWork) -> Verdict:
        if self.num_verified == 3:
            raise InvalidRequestError.of(self.field, "is too much")
        return await super()._step(work)


@pytest.mark.parametrize(
    ("field", "kind", "told"),
    [
        ("sampling.structured_output", InvalidRequestError, "sampling.structured_output: is too much"),
        ("session.sampling.top_k", InternalError, "refused an item: session.sampling.top_k: is too much"),
    ],
)
async def test_what_turns_out_to_be_too_much_is_the_clients_and_what_was_let_through_is_not(
    field: str, kind: type[Exception], told: str
) -> None:
    async with toy_suite(Refusing(field)) as suite:
        with pytest.raises(grpc.aio.AioRpcError) as info:
            await responses_to(suite, request_of(max_tokens=20, speculation={"disabled": True}))
        error = error_from_rpc(info.value)
        assert isinstance(error, kind)
        assert str(error).endswith(told)

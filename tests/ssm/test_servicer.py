"""The SSM service over a real socket: drafts, control calls, bad items, and peers that vanish in the middle of one."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc
import pytest
import torch

from specgrove.errors import InvalidRequestError, StaleBaseError
from specgrove.loop.works import Draft, DraftWork, TreeShape
from specgrove.program.loading import load_decoder
from specgrove.runtime.model_runner import ModelRunner
from specgrove.runtime.step_loop import StepLoop
from specgrove.serving.health import Health
from specgrove.serving.server import Server
from specgrove.settings.ssm_specs import SsmSpec
from specgrove.tokenizer.ssm_vocabulary import Vocabulary
from specgrove.tokenizer.vocabulary import token_checksums
from specgrove.v1 import ssm_pb2, ssm_pb2_grpc
from specgrove.wire.drafts import draft_from_proto, draft_work_to_proto
from specgrove.wire.errors import error_from_proto
from ssm_service.config import PoolConfig
from ssm_service.draft_tree import Beam
from ssm_service.loading import info_of
from ssm_service.lookup import LookupSsm
from ssm_service.neural import NeuralSsm
from ssm_service.servicer import SsmServicer
from tests.conftest import TINY_VOCAB_SIZE
from tests.gated import GatedPool
from tests.waiting import LIMIT_S, until

WORK = DraftWork("s", 0, (5, 1, 44, 90, 5, 1, 44), TreeShape(max_num_nodes=6, max_depth=3))


@pytest.fixture
def pool(tiny_llama: Path) -> GatedPool:
    vocabulary = Vocabulary("made up", token_checksums({"a": 0, "b": 1}))
    runner = ModelRunner(load_decoder(tiny_llama, torch.float32), 200)
    neural = NeuralSsm("tiny", runner, Beam(), None, vocabulary=vocabulary)
    return GatedPool([neural, LookupSsm("lookup")], PoolConfig())


@pytest.fixture
def loop(pool: GatedPool) -> Iterator[StepLoop[DraftWork, Draft]]:
    loop = StepLoop(pool, "pool")
    yield loop
    loop.stop()


@pytest.fixture
async def servicer(pool: GatedPool, loop: StepLoop[DraftWork, Draft]) -> SsmServicer:
    specs = [SsmSpec("tiny", "tiny", "beam"), SsmSpec("lookup", None, "lookup")]
    ssms = [*pool.ssms.neural.values(), *pool.ssms.lookup.values()]
    return SsmServicer([info_of(spec, ssm) for spec, ssm in zip(specs, ssms, strict=True)], pool, loop)


@pytest.fixture
async def stub(servicer: SsmServicer) -> AsyncIterator[ssm_pb2_grpc.SsmServiceStub]:
    server = Server(
        "127.0.0.1:0",
        lambda server: ssm_pb2_grpc.add_SsmServiceServicer_to_server(servicer, server),
        health=Health(["specgrove.v1.SsmService"]),
        drain=servicer.streams.drain,
    )
    address = await server.start()
    async with grpc.aio.insecure_channel(address) as channel:
        yield ssm_pb2_grpc.SsmServiceStub(channel)
    await server.stop(0)


async def ask(stub: ssm_pb2_grpc.SsmServiceStub, *items: ssm_pb2.DraftItem) -> dict[int, ssm_pb2.DraftResult]:
    """The results of one message, by item id, on a stream of its own."""
    call = stub.Draft()
    results = await ask_on(call, *items)
    call.cancel()
    return results


async def ask_on(call: Any, *items: ssm_pb2.DraftItem) -> dict[int, ssm_pb2.DraftResult]:
    await call.write(ssm_pb2.DraftRequest(items=items))
    results: dict[int, ssm_pb2.DraftResult] = {}
    while len(results) < len(items):
        response = await asyncio.wait_for(call.read(), LIMIT_S)
        assert response is not grpc.aio.EOF
        results |= {result.item_id: result for result in response.results}
    return results


async def test_a_session_that_comes_again_is_read_once_where_its_router_tells_its_salt(
    stub: ssm_pb2_grpc.SsmServiceStub, pool: GatedPool
) -> None:
    """Its stream has ended, as when a router dies; and a router that is older than the field tells none."""
    counts = pool.ssms.neural["tiny"].read_counts
    drafts, nums_found = [], []
    for salt in ("mine", "mine", None, None):
        found = counts.num_cached_tokens
        results = await ask(stub, draft_work_to_proto(replace(WORK, cache_salt=salt), 1))
        drafts.append(draft_from_proto(results[1].draft).trees)
        nums_found.append(counts.num_cached_tokens - found)
        await until(lambda: pool.num_sessions == 0)
    assert nums_found == [0, len(WORK.new_token_ids) - 1, 0, 0]
    assert all(trees == drafts[0] for trees in drafts)


async def test_drafts_and_control_calls(stub: ssm_pb2_grpc.SsmServiceStub) -> None:
    call = stub.Draft()  # its end would end the session
    results = await ask_on(call, draft_work_to_proto(WORK, 7))
    draft = draft_from_proto(results[7].draft)
    assert draft.base == len(WORK.new_token_ids)
    assert [drafted.ssm for drafted in draft.trees] == ["tiny", "lookup"]
    for drafted in draft.trees:
        drafted.tree.validated(vocab_size=TINY_VOCAB_SIZE, max_num_nodes=7)
    infos = (await stub.GetModelInfo(ssm_pb2.SsmServiceGetModelInfoRequest())).ssms
    assert [(info.name, info.mode) for info in infos] == [("tiny", "beam"), ("lookup", "lookup")]
    assert infos[0].num_parameters > 0
    first, second = [await stub.Warmup(ssm_pb2.SsmServiceWarmupRequest()) for _ in range(2)]
    assert first == second
    assert first.ssms[0].pass_times[0].num_rows == 1  # how many more depends on the machine
    load = (await stub.GetLoad(ssm_pb2.SsmServiceGetLoadRequest())).load
    assert load.num_sessions == 1
    assert load.num_free_slots < load.num_slots == 200
    await stub.CloseSession(ssm_pb2.SsmServiceCloseSessionRequest(session_id="s"))
    load = (await stub.GetLoad(ssm_pb2.SsmServiceGetLoadRequest())).load
    assert (load.num_sessions, load.num_free_slots) == (0, 200)
    call.cancel()


async def test_an_ssm_says_what_its_token_ids_mean(stub: ssm_pb2_grpc.SsmServiceStub) -> None:
    infos = (await stub.GetModelInfo(ssm_pb2.SsmServiceGetModelInfoRequest())).ssms
    assert [info.vocab_sha256 for info in infos] == ["made up", ""]
    for ssm, expected in (("tiny", token_checksums({"a": 0, "b": 1})), ("lookup", b"")):
        assert (await stub.GetVocabulary(ssm_pb2.GetVocabularyRequest(ssm=ssm))).token_checksums == expected
    with pytest.raises(grpc.aio.AioRpcError, match="'nobody' is not in the pool") as caught:
        await stub.GetVocabulary(ssm_pb2.GetVocabularyRequest(ssm="nobody"))
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT


async def test_bad_items_fail_alone(stub: ssm_pb2_grpc.SsmServiceStub) -> None:
    good = draft_work_to_proto(WORK, 1)
    stale = ssm_pb2.DraftItem(session_id="t", item_id=2, base=9, new_token_ids=[1], max_num_nodes=3, max_depth=2)
    invalid = ssm_pb2.DraftItem(session_id="u", item_id=3, new_token_ids=[1], max_depth=99)
    results = await ask(stub, good, stale, invalid)
    assert results[1].HasField("draft")
    assert isinstance(error_from_proto(results[2].error), StaleBaseError)
    assert isinstance(error_from_proto(results[3].error), InvalidRequestError)


async def test_what_each_ssm_did_is_counted(
    servicer: SsmServicer, stub: ssm_pb2_grpc.SsmServiceStub, pool: GatedPool
) -> None:
    result = (await ask(stub, draft_work_to_proto(WORK, 1)))[1]
    told = {reading.metric.name: reading.by_labels() for reading in pool.counts.readings()}
    for tree in result.draft.trees:
        assert told["specgrove_ssm_drafts_total"][(tree.ssm,)] == 1
        assert told["specgrove_ssm_draft_tokens_total"][(tree.ssm,)] == len(tree.tree.token_ids) - 1
    load = (await stub.GetLoad(ssm_pb2.SsmServiceGetLoadRequest())).load
    assert load.num_passes == pool.counts.num_passes > 0
    assert load.total_pass_ms > 0
    slots = {reading.metric.name: reading.by_labels() for reading in servicer.load.readings()}
    assert sum(slots["specgrove_ssm_kv_slots"].values()) == load.num_slots > 0
    assert slots["specgrove_ssm_busy_seconds_total"][()] >= load.total_pass_ms / 1e3


async def test_too_many_items_are_refused(stub: ssm_pb2_grpc.SsmServiceStub) -> None:
    call = stub.Draft()
    await call.write(ssm_pb2.DraftRequest(items=[draft_work_to_proto(WORK, 1)] * 1025))
    with pytest.raises(grpc.aio.AioRpcError, match="1024"):
        await asyncio.wait_for(call.read(), LIMIT_S)
    assert await call.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert (await ask(stub, draft_work_to_proto(WORK, 1)))[1].HasField("draft")


async def test_a_router_that_vanishes_leaves_the_service_drafting(
    servicer: SsmServicer, stub: ssm_pb2_grpc.SsmServiceStub, pool: GatedPool, loop: StepLoop[DraftWork, Draft]
) -> None:
    """Its stream's end cancels the items on it, while the engine is about to finish them."""
    pool.is_open = False
    call = stub.Draft()
    await call.write(ssm_pb2.DraftRequest(items=[draft_work_to_proto(WORK, 1)]))
    await until(lambda: loop.num_pending_items == 1)
    call.cancel()
    await until(lambda: servicer.streams.num_pending_items == 0)
    pool.is_open = True
    await until(lambda: loop.num_pending_items == 0)
    assert (await ask(stub, draft_work_to_proto(WORK, 2)))[2].HasField("draft")
    await until(lambda: pool.ssms.num_free_slots == 200)  # no router will close what those streams opened


@pytest.mark.parametrize("session_id", ["", "x" * 65])
async def test_ids_that_no_session_has_are_not_remembered(stub: ssm_pb2_grpc.SsmServiceStub, session_id: str) -> None:
    with pytest.raises(grpc.aio.AioRpcError, match="must have 1 to 64 characters") as caught:
        await stub.CloseSession(ssm_pb2.SsmServiceCloseSessionRequest(session_id=session_id))
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT

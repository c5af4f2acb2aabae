"""The LLM service's gRPC face over a real socket, with a tiny model: what it tells of itself, verdicts, drain, closing."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import grpc
import pytest
import torch

from llm_service.config import VerifierConfig
from llm_service.servicer import LlmServicer, ServedModel
from llm_service.verifier import VerifierEngine
from router.served_model import fetch_tokenizer_files, tokenizer_of
from specgrove.errors import StaleBaseError
from specgrove.loop.token_tree import TokenTree
from specgrove.loop.works import PromptProgress, Verdict, VerifyWork
from specgrove.models.decoder.ends import Ends
from specgrove.program.loading import load_decoder
from specgrove.runtime.model_runner import ModelRunner
from specgrove.runtime.step_loop import StepLoop
from specgrove.serving.health import Health
from specgrove.serving.server import Server
from specgrove.tokenizer import Tokenizer
from specgrove.v1 import llm_pb2, llm_pb2_grpc
from specgrove.wire import works
from specgrove.wire.errors import error_from_proto
from tests.gated import GatedEngine
from tests.llm.verifying import PROMPT, opening
from tests.router.toy_language import CHAT_TEMPLATE, toy_tokenizer_json
from tests.waiting import LIMIT_S, until

NUM_SLOTS = 300


@dataclass(frozen=True, slots=True)
class Service:
    """One that runs, and a stub of it."""

    servicer: LlmServicer
    stub: llm_pb2_grpc.LlmServiceStub
    tokenizer: Tokenizer


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    # So long that it takes several messages.
    (tmp_path / "tokenizer.json").write_bytes(toy_tokenizer_json() + b" " * (2 << 20))
    (tmp_path / "chat_template.jinja").write_text(CHAT_TEMPLATE)
    return tmp_path


@pytest.fixture
def engine(tiny_llama: Path) -> GatedEngine:
    runner = ModelRunner(load_decoder(tiny_llama, torch.float32), NUM_SLOTS)
    return GatedEngine(runner, VerifierConfig(max_model_len=200))


@pytest.fixture
def loop(engine: VerifierEngine) -> Iterator[StepLoop[VerifyWork, Verdict | PromptProgress]]:
    loop = StepLoop(engine, "verifier")
    yield loop
    loop.stop()


@pytest.fixture
async def service(
    folder: Path, engine: VerifierEngine, loop: StepLoop[VerifyWork, Verdict | PromptProgress], tiny_llama: Path
) -> AsyncIterator[Service]:
    tokenizer = Tokenizer.from_folder(folder)
    spec = load_decoder(tiny_llama, torch.float32).spec
    recommended = {"temperature": 0.5, "top_k": 20}
    model = ServedModel(
        "tiny", folder, "float32", 200, 64, Ends((2,), (2, 3)), spec, tokenizer, recommended_sampling=recommended
    )
    servicer = LlmServicer(model, engine, loop, NUM_SLOTS)
    server = Server(
        "127.0.0.1:0",
        lambda server: llm_pb2_grpc.add_LlmServiceServicer_to_server(servicer, server),
        health=Health(["specgrove.v1.LlmService"]),
        drain=servicer.drain,
    )
    address = await server.start()
    async with grpc.aio.insecure_channel(address) as channel:
        yield Service(servicer, llm_pb2_grpc.LlmServiceStub(channel), tokenizer)
    await server.stop(0)


async def read(call: object) -> list[llm_pb2.VerifyResult]:
    """The results of the next message, none at the stream's end."""
    response = await asyncio.wait_for(call.read(), LIMIT_S)  # type: ignore[attr-defined]
    return [] if response is grpc.aio.EOF else list(response.results)


async def test_what_it_tells_of_itself(service: Service) -> None:
    info = await service.stub.GetModelInfo(llm_pb2.LlmServiceGetModelInfoRequest())
    assert (info.model, info.architecture, info.vocab_size, info.dtype) == ("tiny", "LlamaForCausalLM", 97, "float32")
    assert (info.max_model_len, info.num_slots, info.max_num_tree_nodes) == (200, NUM_SLOTS, 64)
    assert (list(info.eos_token_ids), list(info.chat_end_token_ids)) == ([2], [2, 3])
    assert info.vocab_sha256 == service.tokenizer.vocab_sha256
    assert info.num_parameters > 0
    recommended = {field.name: value for field, value in info.recommended_sampling.ListFields()}
    assert recommended == {"temperature": 0.5, "top_k": 20}


async def test_its_tokenizer_arrives_whole(service: Service) -> None:
    pieces = [piece async for piece in service.stub.GetTokenizer(llm_pb2.GetTokenizerRequest())]
    assert max(len(piece.content) for piece in pieces) <= 1 << 20
    assert [piece.file_name for piece in pieces].count("tokenizer.json") == 3
    fetched = tokenizer_of(await fetch_tokenizer_files(service.stub))  # type: ignore[arg-type]
    assert fetched.vocab_sha256 == service.tokenizer.vocab_sha256
    assert fetched.has_chat_template


async def test_verdicts_errors_and_load(service: Service) -> None:
    call = service.stub.Verify()
    stale = VerifyWork("unknown", 7, (), TokenTree.of_root(1))
    items = [works.verify_work_to_proto(opening("s", PROMPT), 4), works.verify_work_to_proto(stale, 5)]
    await call.write(llm_pb2.VerifyRequest(items=items))
    results: dict[int, llm_pb2.VerifyResult] = {}
    while len(results) < 2:
        results |= {result.item_id: result for result in await read(call)}
    assert works.verdict_from_proto(results[4].verdict).base == len(PROMPT)
    assert isinstance(error_from_proto(results[5].error), StaleBaseError)
    load = (await service.stub.GetLoad(llm_pb2.LlmServiceGetLoadRequest())).load
    assert (load.num_sessions, load.num_slots, load.num_free_slots) == (1, NUM_SLOTS, NUM_SLOTS - len(PROMPT))
    assert (load.num_waiting_sessions, load.num_passes, load.num_pass_rows) == (0, 1, len(PROMPT))
    assert load.total_pass_ms > 0
    told = {reading.metric.name: reading.value for reading in service.servicer.load.readings()}
    assert told["specgrove_llm_kv_slots_used"] == len(PROMPT)
    assert told["specgrove_llm_busy_seconds_total"] >= load.total_pass_ms / 1e3
    assert (told["specgrove_llm_sessions_running"], told["specgrove_llm_sessions_waiting"]) == (1, 0)
    (errors,) = service.servicer.streams.readings()
    assert errors.value == {("STALE_BASE",): 1}
    for _ in range(2):  # unknown sessions are no error
        await service.stub.CloseSession(llm_pb2.LlmServiceCloseSessionRequest(session_id="s"))
    load = (await service.stub.GetLoad(llm_pb2.LlmServiceGetLoadRequest())).load
    assert (load.num_sessions, load.num_free_slots) == (0, NUM_SLOTS)
    call.cancel()


async def test_draining_ends_an_item_with_its_next_verdict(
    service: Service,
) -> None:
    call = service.stub.Verify()
    work = opening("s", PROMPT)
    item = works.verify_work_to_proto(work, 1)
    item.num_steps = 180  # so many that the drain comes first
    await call.write(llm_pb2.VerifyRequest(items=[item]))
    (first, *_) = await read(call)
    assert first.verdict.has_more
    draining = asyncio.create_task(service.servicer.drain())
    results = [first]
    while results[-1].verdict.has_more:
        results.extend(await read(call))
    assert [result.verdict.has_more for result in results] == [True] * (len(results) - 1) + [False]
    assert sum(len(result.verdict.token_ids) for result in results) <= 180
    await asyncio.wait_for(draining, LIMIT_S)


async def test_items_are_finished_early_by_their_ids(
    service: Service, engine: GatedEngine, loop: StepLoop[VerifyWork, Verdict | PromptProgress]
) -> None:
    engine.is_open = False
    call, other_router = service.stub.Verify(), service.stub.Verify()
    items = [works.verify_work_to_proto(replace(opening(f"s{i}", PROMPT), num_steps=9), i) for i in range(2)]
    foreign = works.verify_work_to_proto(replace(opening("foreign", PROMPT), num_steps=9), 1)
    await other_router.write(llm_pb2.VerifyRequest(items=[foreign]))
    await call.write(llm_pb2.VerifyRequest(items=items))
    await until(lambda: loop.num_pending_items == 3)
    last = works.verify_work_to_proto(opening("last", PROMPT), 7)
    await call.write(llm_pb2.VerifyRequest(items=[last], finish_early_item_ids=[1, 77]))
    await until(lambda: loop.num_pending_items == 4)  # what that message says is known by then
    engine.is_open = True
    loop.call(lambda: None)
    verdicts: dict[str, list[llm_pb2.Verdict]] = {name: [] for name in ("s0", "s1", "last", "foreign")}
    for stream, names in ((call, ("s0", "s1", "last")), (other_router, ("foreign",))):
        while any(not verdicts[name] or verdicts[name][-1].has_more for name in names):
            for result in await read(stream):
                verdicts[result.session_id].append(result.verdict)
    num_tokens = {name: sum(len(verdict.token_ids) for verdict in found) for name, found in verdicts.items()}
    assert num_tokens == {"s0": 9, "s1": 1, "last": 1, "foreign": 9}
    call.cancel()
    other_router.cancel()


async def test_pass_times_are_measured_once(service: Service, engine: VerifierEngine) -> None:
    first = await service.stub.Warmup(llm_pb2.LlmServiceWarmupRequest())
    second = await service.stub.Warmup(llm_pb2.LlmServiceWarmupRequest())
    if first.is_complete:
        assert first == second
    assert first.pass_times[0].num_rows == 1
    assert all(time.pass_ms > 0 for time in first.pass_times)
    assert engine.num_free_slots == NUM_SLOTS  # nothing of it stays

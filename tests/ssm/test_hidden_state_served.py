"""An SSM that reads hidden states, from its folder to trees over gRPC; and what the service says of it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest
import torch

from specgrove.loop.verifier_knowledge import DraftSampling
from specgrove.loop.works import DraftWork
from specgrove.models.hidden_state.loading import read_hidden_ssm
from specgrove.models.hidden_state.own_folder import save_own_folder
from specgrove.models.hidden_state.program_weights import ModelEnds
from specgrove.models.planning.ssm_fitting import SsmDemand
from specgrove.runtime.step_loop import StepLoop
from specgrove.serving.health import Health
from specgrove.serving.server import Server
from specgrove.settings.ssm_specs import parse_ssms
from specgrove.v1 import ssm_pb2, ssm_pb2_grpc
from specgrove.wire.drafts import draft_from_proto, draft_work_to_proto
from ssm_service.__main__ import check_models
from ssm_service.config import PoolConfig, SsmServiceConfig
from ssm_service.hidden_state import HiddenStateSsm
from ssm_service.loading import info_of, load_ssm
from ssm_service.pool import DrafterPool
from ssm_service.servicer import SsmServicer
from tests.conftest import save_tiny_llama
from tests.models.hidden_state.tiny_ssms import random_module
from tests.router.toy_language import VOCAB_SIZE, toy_tokenizer_json
from tests.ssm.hidden_states import TwinDrafter, message, toy_hidden_states
from tests.ssm.pools import SHAPE

TOKENS = [(7 * place + 3) % VOCAB_SIZE for place in range(30)]
STATES = toy_hidden_states(30, size=48)


@pytest.fixture(scope="module")
def llm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = save_tiny_llama(tmp_path_factory.mktemp("llm"), seed=3, vocab_size=VOCAB_SIZE, num_hidden_layers=4)
    (folder / "tokenizer.json").write_bytes(toy_tokenizer_json())
    return folder


@pytest.fixture(scope="module")
def ssm_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return _saved(tmp_path_factory.mktemp("ssm"))


def _saved(folder: Path, **changes: Any) -> Path:
    sizes = {
        "hidden_size": 48,
        "target_hidden_size": 48,
        "vocab_size": VOCAB_SIZE,
        "vocab_sha256": "",
        "hidden_window": 64,
    }
    save_own_folder(folder, random_module(**(sizes | changes)), torch.float32)
    return folder


def _config(ssm_folder: Path, llm: Path | None, options: str = "", dtype: str = "float32") -> SsmServiceConfig:
    return SsmServiceConfig(
        address="127.0.0.1:0", ssms=parse_ssms([f"{ssm_folder},name=head{options}"]), demand=SsmDemand(dtype, "cpu", "off", 128),
        cache_dir=ssm_folder / "cache", num_threads=1, session_ttl_s=60.0, pass_timeout_s=120.0, drain_timeout_s=0.0, log_level="INFO",
        log_format="text", llm_model=None if llm is None else str(llm),
    )  # fmt: skip


def _loaded(config: SsmServiceConfig) -> HiddenStateSsm:
    check_models(config)
    ssm = load_ssm(config.ssms[0], config, torch.device("cpu"))
    assert isinstance(ssm, HiddenStateSsm)
    return ssm


@pytest.fixture
async def stub(ssm_folder: Path, llm: Path) -> AsyncIterator[ssm_pb2_grpc.SsmServiceStub]:
    config = _config(ssm_folder, llm)
    ssm = _loaded(config)
    pool = DrafterPool([ssm], PoolConfig())
    loop = StepLoop(pool, "pool")
    servicer = SsmServicer([info_of(config.ssms[0], ssm)], pool, loop)
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
    loop.stop()


@pytest.mark.parametrize("sampling", [None, DraftSampling(0.7, seed=5)])
async def test_trees_over_grpc_are_those_of_the_torch_module(
    sampling: DraftSampling | None, stub: ssm_pb2_grpc.SsmServiceStub, ssm_folder: Path, llm: Path
) -> None:
    found = read_hidden_ssm(ssm_folder, llm)
    twin = TwinDrafter(found.module(), ModelEnds(found.ends.embedding.float(), found.ends.head.float()))
    call = stub.Draft()
    opening = DraftWork("s", 0, tuple(TOKENS[:20]), SHAPE, sampling=sampling, hidden_states=message(STATES, 0, 19))
    following = DraftWork("s", 20, tuple(TOKENS[20:24]), SHAPE, hidden_states=message(STATES, 19, 23))
    for work, length in ((opening, 20), (following, 24)):
        await call.write(ssm_pb2.DraftRequest(items=[draft_work_to_proto(work, length)]))
        (result,) = (await call.read()).results
        (drafted,) = draft_from_proto(result.draft).trees
        told = twin.tree(TOKENS[:length], STATES[: length - 1], 0, SHAPE, sampling)
        assert (drafted.tree.token_ids, drafted.tree.parents) == (told.token_ids, told.parents)
        assert drafted.tree.log_probs == pytest.approx(told.log_probs, abs=2e-3)
    call.cancel()


async def test_the_service_says_what_it_must_be_given(stub: ssm_pb2_grpc.SsmServiceStub) -> None:
    (info,) = (await stub.GetModelInfo(ssm_pb2.SsmServiceGetModelInfoRequest())).ssms
    assert (info.name, info.mode, list(info.hidden_layers)) == ("head", "hidden", [1, 2, 3])
    assert (info.hidden_window, info.hidden_size) == (64, 48)
    assert len(info.vocab_sha256) == 64


@pytest.mark.parametrize("options", ["", ",quantization=int8", ",quantization=int4"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_every_precision_loads_and_drafts(options: str, dtype: str, ssm_folder: Path, llm: Path) -> None:
    ssm = _loaded(_config(ssm_folder, llm, options, dtype))
    pool = DrafterPool([ssm], PoolConfig())
    pool.add(1, DraftWork("s", 0, tuple(TOKENS[:20]), SHAPE, hidden_states=message(STATES, 0, 19)))
    while pool.has_work():
        for _, draft in pool.step():
            assert draft.trees[0].tree.num_nodes == 8  # type: ignore[union-attr]


def test_the_llm_must_be_named(ssm_folder: Path) -> None:
    with pytest.raises(ValueError, match="say which LLM it is with --llm-model"):
        check_models(_config(ssm_folder, None))


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"vocab_sha256": "ab" * 32}, "was not made for .*: its token ids mean something else there"),
        ({"hidden_layers": (1, 2, 5)}, "it reads layer 5, and the LLM has 4"),
        ({"vocab_size": VOCAB_SIZE + 1}, f"it has {VOCAB_SIZE + 1} token ids, and the LLM {VOCAB_SIZE}"),
        ({"target_hidden_size": 64}, "it reads hidden states of 64 numbers, and the LLM's have 48"),
    ],
)
def test_what_does_not_fit_the_llm_is_named(changes: dict[str, Any], told: str, tmp_path: Path, llm: Path) -> None:
    with pytest.raises(ValueError, match=told):
        check_models(_config(_saved(tmp_path, **changes), llm))

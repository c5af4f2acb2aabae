"""From the LLM's layers to an SSM, over gRPC: a tiny model behind the real LLM service and the real router, and an SSM that remembers."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from llm_service.config import VerifierConfig
from llm_service.servicer import LlmServicer, ServedModel
from llm_service.verifier import VerifierEngine
from specgrove.loop.token_tree import TokenTree
from specgrove.loop.verifier_knowledge import HiddenStates, joined
from specgrove.loop.works import Draft, DraftWork, PromptProgress, Verdict, VerifyWork
from specgrove.models.decoder.ends import Ends
from specgrove.models.hidden_state.module import HiddenStateModule
from specgrove.models.hidden_state.spec import HiddenSsmSpec
from specgrove.program.backend import PassOutput
from specgrove.program.loading import load_decoder
from specgrove.runtime.model_runner import ModelRunner
from specgrove.runtime.step_loop import StepLoop
from specgrove.tokenizer import Tokenizer
from specgrove.v1 import ssm_pb2, token_tree_pb2
from ssm_service.config import PoolConfig
from ssm_service.pool import DrafterPool
from ssm_service.servicer import SsmServicer
from tests.llm.hidden_states import check
from tests.router.generating import PROMPT, request_of, responses_to, token_ids_of
from tests.router.toy_services import ToyLlm
from tests.router.toy_ssm import ToySsm
from tests.router.toy_suite import ToySuite, toy_suite
from tests.ssm.hidden_states import make_ssm, toy_ends
from tests.waiting import until

NUM_TOKENS = 100
MAX_MODEL_LEN = 600
LAYERS = (0, 2, 3)
HIDDEN_SIZE = 64


class Recording(ModelRunner):
    """Counts the passes that handed hidden states out."""

    num_telling = 0

    def finish(self) -> PassOutput:
        output = super().finish()
        self.num_telling += len(output.hidden) > 0
        return output


class Llm(LlmServicer):
    """The real service, in this process; its loop may be held up, so that something can happen in the midst of an output."""

    def __init__(self, folder: Path) -> None:
        self.runner = Recording(load_decoder(folder, torch.float32), 2 * MAX_MODEL_LEN)
        engine = VerifierEngine(self.runner, VerifierConfig(max_model_len=MAX_MODEL_LEN, max_num_chunk_tokens=50))
        self.step_loop: StepLoop[VerifyWork, Verdict | PromptProgress] = StepLoop(engine, "verifier")
        tokenizer, spec = Tokenizer.from_folder(folder), self.runner.spec
        model = ServedModel("tiny", folder, "float32", MAX_MODEL_LEN, 64, Ends((2,), (2,)), spec, tokenizer)
        super().__init__(model, engine, self.step_loop, self.runner.num_slots)


class Knowing(ToySsm):
    """Knows an output beforehand, and drafts it among wrong tokens."""

    def __init__(self, layers: tuple[int, ...] = LAYERS, window: int = 1000) -> None:
        super().__init__(("knowing",))
        self.hidden_layers, self.hidden_window, self.hidden_size = layers, window, HIDDEN_SIZE
        self.known: list[int] = []
        self.pause_at: int | None = None  # a length at which it waits for its gate

    async def draft(self, work: DraftWork) -> Any:
        if self.pause_at is not None and work.base >= self.pause_at:
            self.pause_at = None
            self.gate.clear()
        return await super().draft(work)

    def _tree(self, tokens: list[int], work: DraftWork) -> TokenTree:
        ahead = self.known[len(tokens) :][: self._random.randrange(work.shape.max_depth + 1)]
        token_ids, parents = [tokens[-1]], [-1]
        trunk = 0
        for token_id in ahead:
            for child in (token_id ^ 1, token_id):
                token_ids.append(child)
                parents.append(trunk)
            trunk = len(token_ids) - 1
        size = len(token_ids)
        return TokenTree(tuple(token_ids), tuple(parents), (0.0,) + (-0.5,) * (size - 1), (0,) * size)


@contextlib.asynccontextmanager
async def running(folder: Path, ssm: ToySsm) -> AsyncIterator[tuple[ToySuite, list[Llm]]]:
    """The suite, and its LLM services: that which runs now is the last."""
    llms = [Llm(folder)]
    try:
        async with toy_suite(_as_toy(llms[0]), ssm) as suite:
            yield suite, llms
    finally:
        for llm in llms:
            llm.step_loop.stop()


def _as_toy(llm: Any) -> ToyLlm:
    """A toy suite takes any servicer with streams."""
    return llm  # type: ignore[no-any-return]


async def output_of(
    suite: ToySuite, prompt: Sequence[int], *, temperature: float, is_drafted: bool, cache_salt: str | None = None
) -> list[int]:
    """Where no ``cache_salt`` is given drafted outputs share no prefix with others, so that all of the prompt's rows are computed."""
    sampling = token_tree_pb2.SamplingParams(seed=3, temperature=temperature)
    request = request_of(
        max_tokens=NUM_TOKENS,
        sampling=sampling,
        ignore_eos=True,
        speculation={"disabled": not is_drafted},
        cache_salt=("drafted" if is_drafted else "") if cache_salt is None else cache_salt,
        token_ids={"token_ids": prompt},
    )
    return token_ids_of(await responses_to(suite, request))


def received(works: Sequence[DraftWork]) -> HiddenStates:
    """All rows that came in one session of the SSM service, which must follow one another."""
    begun = max(place for place, work in enumerate(works) if work.base == 0)
    found: HiddenStates | None = None
    for work in works[begun:]:
        if (states := work.hidden_states) is not None:
            assert found is None or states.first_position == found.end_position
            assert states.end_position == work.base + len(work.new_token_ids) - 1
            found = joined((found, states))
    assert found is not None
    return found


LONG = [byte % 90 + 33 for byte in range(7, 7 + 300 * 5, 5)]


@pytest.mark.parametrize("temperature", [0.0, 0.8])
@pytest.mark.parametrize("prompt", [PROMPT, LONG], ids=["short", "long"])
async def test_an_ssm_gets_what_transformers_has_of_the_same_text(
    tiny_model: Path, prompt: list[int], temperature: float
) -> None:
    ssm = Knowing()
    async with running(tiny_model, ssm) as (suite, llms):
        expected = await output_of(suite, prompt, temperature=temperature, is_drafted=False)
        assert llms[0].runner.num_telling == 0
        ssm.known = [*prompt, *expected]
        found = await output_of(suite, prompt, temperature=temperature, is_drafted=True)
        assert llms[0].runner.num_telling > 0
    assert found == expected
    states = received(ssm.asked)
    assert states.layers == LAYERS
    assert states.first_position == 0
    assert states.end_position > len(prompt) + NUM_TOKENS / 2
    check(tiny_model, ssm.known, states)


async def test_a_short_window_of_a_long_prompt(tiny_model: Path) -> None:
    ssm = Knowing((1,), window=40)
    async with running(tiny_model, ssm) as (suite, _):
        ssm.known = LONG + await output_of(suite, LONG, temperature=0.0, is_drafted=False)
        await output_of(suite, LONG, temperature=0.0, is_drafted=True)
    states = received(ssm.asked)
    assert len(LONG) - 41 <= states.first_position < len(LONG) + NUM_TOKENS / 2
    check(tiny_model, ssm.known, states)


async def test_of_what_the_prefix_cache_has_no_hidden_states_come(tiny_model: Path) -> None:
    ssm = Knowing()
    async with running(tiny_model, ssm) as (suite, _):
        expected = await output_of(suite, LONG, temperature=0.0, is_drafted=False)
        ssm.known = LONG + expected
        assert await output_of(suite, LONG, temperature=0.0, is_drafted=True, cache_salt="") == expected
    states = received(ssm.asked)
    assert states.first_position == len(LONG) - 1
    check(tiny_model, ssm.known, states)


@pytest.mark.parametrize("killed", ["llm", "ssm"])
@pytest.mark.parametrize("temperature", [0.0, 0.8])
async def test_a_killed_service_changes_no_token(tiny_model: Path, killed: str, temperature: float) -> None:
    ssm = Knowing()
    async with running(tiny_model, ssm) as (suite, llms):
        expected = await output_of(suite, PROMPT, temperature=temperature, is_drafted=False)
        ssm.known = [*PROMPT, *expected]
        ssm.pause_at = len(PROMPT) + 30
        generating = asyncio.create_task(output_of(suite, PROMPT, temperature=temperature, is_drafted=True))
        await until(lambda: not ssm.gate.is_set())
        if killed == "llm":
            llms.append(Llm(tiny_model))
            await suite.restart_llm(_as_toy(llms[-1]))
            ssm.gate.set()
        else:
            after = Knowing()
            after.known = ssm.known
            await suite.restart_ssm(after)
            ssm = after
        found = await generating
    assert found == expected
    if ssm.asked:  # a new service may come when all is output
        check(tiny_model, ssm.known, received(ssm.asked))


async def test_the_real_ssm_service_drafts_from_them(tiny_model: Path) -> None:
    """With random weights: its trees are mostly wrong, and the output is the same."""
    llm = load_decoder(tiny_model, torch.float32).spec
    shape = HiddenSsmSpec(
        hidden_size=HIDDEN_SIZE, target_hidden_size=HIDDEN_SIZE, intermediate_size=96, num_heads=4, num_kv_heads=2, head_dim=16,
        norm_eps=1e-5, rotary=llm.layers[0].rotary, max_position_embeddings=MAX_MODEL_LEN, vocab_size=llm.vocab_size,
        hidden_layers=(1, llm.num_layers), hidden_window=8,
    )  # fmt: skip
    ssm = make_ssm(HiddenStateModule(shape), toy_ends(llm.vocab_size, HIDDEN_SIZE))
    pool = DrafterPool([ssm], PoolConfig())
    info = ssm_pb2.SsmInfo(
        name=ssm.name, mode="hidden", vocab_sha256=Tokenizer.from_folder(tiny_model).vocab_sha256,
        hidden_layers=shape.hidden_layers, hidden_window=shape.hidden_window, hidden_size=shape.target_hidden_size,
    )  # fmt: skip
    step_loop: StepLoop[DraftWork, Draft] = StepLoop(pool, "drafter")
    service: Any = SsmServicer([info], pool, step_loop)
    try:
        async with running(tiny_model, service) as (suite, llms):
            expected = await output_of(suite, PROMPT, temperature=0.8, is_drafted=False)
            assert await output_of(suite, PROMPT, temperature=0.8, is_drafted=True) == expected
            assert llms[0].runner.num_telling > 0
    finally:
        step_loop.stop()
    assert pool.ssms.num_rows > NUM_TOKENS  # it reads the text, and drafts below it

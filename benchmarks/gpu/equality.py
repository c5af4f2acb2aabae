"""Speculation changes no token on this card: a model of 7B's shape, drafted for by itself and by lookups, against itself without trees.

In one process, through the services' engines and step loops. The drafter has the model's own weights (a second copy of them), so that many
drafts are accepted, and many of a beam are not. Requests run many at a time, each in ever-changing batches. ``make gpu-equality`` shows the
same of a trained model over gRPC.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from rich.progress import Progress

from benchmarks.gpu.card import Card
from benchmarks.gpu.models import LLAMA_7B, TINY_LLM, ModelShape, decoder_of
from benchmarks.gpu.rows import Row, at_least, broken, skipped
from llm_service.config import VerifierConfig
from llm_service.verifier import VerifierEngine
from router.static_tree_policy import StaticTreePolicy
from specgrove.errors import SpecGroveError
from specgrove.kernels.device_memory import PassLimits
from specgrove.loop.request import GenerationRequest, SamplingParams
from specgrove.loop.speculation import Session
from specgrove.loop.works import Draft, DraftWork, PromptProgress, TreeShape, Verdict, VerifyWork
from specgrove.program.graphs import CudaGraphs, NoGraphs
from specgrove.runtime.graph_runner import GraphRunner
from specgrove.runtime.in_process import InProcessDrafter, InProcessVerifier
from specgrove.runtime.step_loop import StepLoop
from ssm_service.config import PoolConfig
from ssm_service.draft_tree import Beam
from ssm_service.lookup import LookupSsm
from ssm_service.neural import NeuralSsm
from ssm_service.pool import DrafterPool

PART = "speculative = incremental"
TARGET = at_least(1.0)
_UNIT = "of outputs equal"
_TREE, _NO_TREE = TreeShape(8, 4), TreeShape(0, 0)
SAMPLINGS = {"greedy": 0.0, "sampled": 0.8}


@dataclass(frozen=True, slots=True)
class Setup:
    """What is compared."""

    shape: ModelShape
    num_prompts: int
    num_tokens: int
    num_at_once: int
    num_graph_rows: int

    @classmethod
    def of(cls, card: Card) -> Setup:
        """As the issue asks; next to nothing in the emulator."""
        return cls(LLAMA_7B, 200, 128, 16, 256) if card.is_full else cls(TINY_LLM, 3, 12, 3, 12)

    @property
    def max_model_len(self) -> int:
        """Of prompt, output and tree."""
        return 64 + self.num_tokens + _TREE.max_depth

    def prompt(self, index: int) -> tuple[int, ...]:
        """Random tokens with something that repeats, for lookups."""
        rng = random.Random(index)
        words = [rng.randrange(self.shape.vocab_size) for _ in range(rng.randint(3, 30))]
        return (*words, *words[: rng.randint(0, len(words))])


@dataclass(frozen=True, slots=True)
class Loops:
    """The engines, each on its thread."""

    verifier: StepLoop[VerifyWork, Verdict | PromptProgress]
    pool: StepLoop[DraftWork, Draft]


@contextlib.contextmanager
def _loops(setup: Setup, device: torch.device) -> Iterator[Loops]:
    num_slots = setup.num_at_once * (setup.max_model_len + _TREE.max_num_nodes)

    def runner() -> GraphRunner:
        limits = PassLimits(setup.num_graph_rows, setup.num_graph_rows, setup.max_model_len, num_slots)
        graphs = CudaGraphs(device) if device.type == "cuda" else NoGraphs()
        return GraphRunner(decoder_of(setup.shape, device, dtype=torch.bfloat16), limits, graphs)

    config = VerifierConfig(setup.max_model_len, max_num_chunk_tokens=setup.num_graph_rows // 2)
    ssms: list[NeuralSsm | LookupSsm] = [NeuralSsm("itself", runner(), Beam(2), None), LookupSsm("lookup")]
    verifier: StepLoop[Any, Any] = StepLoop(
        VerifierEngine(runner(), config), "verifier"
    )  # after the last that may find no room
    pool = StepLoop(DrafterPool(ssms, PoolConfig()), "pool")
    try:
        yield Loops(verifier, pool)
    finally:
        verifier.stop()
        pool.stop()


async def _output(
    setup: Setup, loops: Loops, index: int, temperature: float, shape: TreeShape
) -> tuple[list[int], int]:
    """Token ids, and how many of them were drafted."""
    sampling = SamplingParams(temperature=temperature, seed=index)
    request = GenerationRequest(f"{index}", setup.prompt(index), setup.num_tokens, sampling)
    drafters = [InProcessDrafter(loops.pool)] if shape.max_num_nodes else []
    verifier = InProcessVerifier(loops.verifier)
    policy = StaticTreePolicy(shape)
    vocab_size, max_model_len = setup.shape.vocab_size, setup.max_model_len
    async with Session(
        request, drafters, verifier, policy, vocab_size=vocab_size, max_model_len=max_model_len
    ) as session:
        tokens = [token async for step in session for token in step.tokens]
    return [token.token_id for token in tokens], sum(bool(token.drafted_by) for token in tokens)


async def _outputs(setup: Setup, loops: Loops, temperature: float, shape: TreeShape) -> list[tuple[list[int], int]]:
    room = asyncio.Semaphore(setup.num_at_once)
    with Progress(transient=True) as progress:
        task = progress.add_task("speculative" if shape.max_num_nodes else "incremental", total=setup.num_prompts)

        async def one(index: int) -> tuple[list[int], int]:
            async with room:
                found = await _output(setup, loops, index, temperature, shape)
            progress.advance(task)
            return found

        return await asyncio.gather(*map(one, range(setup.num_prompts)))


def rows(card: Card) -> Iterator[Row]:
    """One for greedy, one for sampled outputs."""
    setup = Setup.of(card)
    with _loops(setup, card.device) as loops:
        for name, temperature in SAMPLINGS.items():
            what = f"{setup.shape.name} bfloat16, {name}"
            try:
                yield _compared(setup, loops, what, temperature)
            except (RuntimeError, SpecGroveError) as error:
                yield broken(PART, what, _UNIT, TARGET, _cause(loops) or error)


def _cause(loops: Loops) -> BaseException | None:
    """What has ended an engine: who waits for it is only told that it is gone."""
    for loop in (loops.verifier, loops.pool):
        if loop.ended.done() and (cause := loop.ended.exception()) is not None:
            return cause
    return None


def _compared(setup: Setup, loops: Loops, what: str, temperature: float) -> Row:
    started_s = time.perf_counter()
    expected = asyncio.run(_outputs(setup, loops, temperature, _NO_TREE))
    found = asyncio.run(_outputs(setup, loops, temperature, _TREE))
    if (cause := _cause(loops)) is not None:  # a drafter that is gone costs drafts, no error
        raise cause
    different = [
        f"prompt {index} at token {_first_difference(ours, theirs)}"
        for index, ((ours, _), (theirs, _)) in enumerate(zip(found, expected, strict=True))
        if ours != theirs
    ]
    num_equal = setup.num_prompts - len(different)
    num_tokens = sum(len(token_ids) for token_ids, _ in found)
    num_drafted = sum(num for _, num in found)
    note = (
        f"{num_equal} of {setup.num_prompts} outputs of {setup.num_tokens} tokens, {setup.num_at_once} at a time; "
        f"{num_drafted / num_tokens:.0%} of the tokens were drafted; {time.perf_counter() - started_s:.0f} s"
    )
    if num_drafted == 0:
        return skipped(PART, what, _UNIT, TARGET, f"no token was drafted, so nothing is shown; {note}")
    if different:
        note += f"; different: {', '.join(different[:5])}"
    return Row(PART, what, num_equal / setup.num_prompts, _UNIT, TARGET, note=note)


def _first_difference(ours: list[int], theirs: list[int]) -> str:
    for place, (one, other) in enumerate(zip(ours, theirs, strict=False)):
        if one != other:
            return f"{place}: {one} speculative, {other} incremental"
    return f"{min(len(ours), len(theirs))}: one ends"

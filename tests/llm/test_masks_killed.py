"""Structured outputs while the processes that make their masks are killed: the same tokens, with any trees."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import threading
import time
from collections.abc import Iterator
from dataclasses import replace

import pytest

from llm_service.config import VerifierConfig
from llm_service.mask_processes import MaskProcesses
from llm_service.structure import Structures
from llm_service.verifier import VerifierEngine
from specgrove.loop.request import SamplingParams
from specgrove.loop.works import SessionParams, Verdict, VerifyWork
from specgrove.runtime.model_runner import ModelRunner
from tests.conftest import TINY_VOCAB_SIZE
from tests.llm.mask_asker import TOKENIZER
from tests.llm.masks_here import MasksHere
from tests.llm.verifying import SAMPLED, opening, random_tree
from tests.structures.examples import EOS, random_structure
from tests.waiting import LIMIT_S

MAX_TOKENS = 24


@pytest.fixture(scope="module")
def processes() -> Iterator[MaskProcesses]:
    found = MaskProcesses(TOKENIZER)
    yield found
    found.close()


class Killer:
    """Kills a process that makes masks, or the one that forks them, some time soon."""

    def __init__(self, processes: MaskProcesses, rng: random.Random) -> None:
        self.num_killed = 0
        self._processes = processes
        self._rng = rng
        self._timer = threading.Timer(0, self._kill)

    def kill_soon(self) -> None:
        """Once before each verdict at most: who is killed twice at one question is taken for the cause."""
        self._timer.cancel()
        self._timer = threading.Timer(self._rng.random() * 0.003, self._kill)
        self._timer.start()

    def end(self) -> None:
        self._timer.cancel()
        if self._timer.ident is not None:
            self._timer.join()

    def _kill(self) -> None:
        pids, server_pid = self._processes.pids(), self._processes.server_pid
        if server_pid is not None and self._rng.random() < 0.05:
            pids = (server_pid,)
        if pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._rng.choice(pids), signal.SIGKILL)
                self.num_killed += 1


def last_verdict(engine: VerifierEngine, work: VerifyWork) -> Verdict:
    """Of one that waits for its masks, too. All its tokens are in it."""
    engine.add(1, work)
    token_ids: list[int] = []
    until_s = time.monotonic() + LIMIT_S
    while time.monotonic() < until_s:
        for _, verdict in engine.step() if engine.has_work() else ():
            assert isinstance(verdict, Verdict), verdict
            token_ids += verdict.token_ids
            if not verdict.has_more:
                return replace(verdict, token_ids=tuple(token_ids))
        time.sleep(0.0002)
    raise TimeoutError("its masks have not come")


def outputs_are_the_same(runner: ModelRunner, processes: MaskProcesses, seed: int) -> int:
    """How many processes were killed meanwhile."""
    rng = random.Random(seed)
    structure = random_structure(rng)
    plain = SAMPLED if seed % 2 else SamplingParams()
    sampling = replace(plain, seed=seed, stop_token_ids=(EOS,), structured_output=structure)
    config = VerifierConfig(max_model_len=200, max_num_chunk_tokens=4)
    prompt = [rng.randrange(TINY_VOCAB_SIZE) for _ in range(rng.randrange(1, 20))]
    here = VerifierEngine(runner, config, structures=Structures(MasksHere(TOKENIZER)))
    expected = last_verdict(here, replace(opening("s", prompt, sampling), num_steps=MAX_TOKENS)).token_ids
    engine = VerifierEngine(runner, config, structures=Structures(processes))
    killer = Killer(processes, rng)
    output: list[int] = []
    while len(output) < len(expected):
        committed = prompt + output
        tree = random_tree(rng, committed[-1], [*expected[len(output) : len(output) + 5]])
        work = VerifyWork("s", len(committed), (), tree)
        if not output or rng.random() < 0.1:
            work = VerifyWork("s", 0, tuple(committed), tree, SessionParams(sampling, len(prompt)))
        killer.kill_soon()
        verdict = last_verdict(engine, work)
        killer.end()
        output += verdict.token_ids
    assert tuple(output[: len(expected)]) == expected
    engine.close_session("s")
    return killer.num_killed


def test_outputs_are_the_same_while_processes_are_killed(runner: ModelRunner, processes: MaskProcesses) -> None:
    assert sum(outputs_are_the_same(runner, processes, seed) for seed in range(2)) > 0


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(100, 160))
def test_many_outputs_are_the_same_while_processes_are_killed(
    runner: ModelRunner, processes: MaskProcesses, seed: int
) -> None:
    outputs_are_the_same(runner, processes, seed)

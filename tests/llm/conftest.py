"""A verifier engine over a tiny model."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from llm_service.config import VerifierConfig
from llm_service.mask_processes import MaskProcesses
from llm_service.verifier import VerifierEngine
from specgrove.kernels.rows import PassRows
from specgrove.program.backend import PassOutput
from specgrove.program.decoder import Decoder
from specgrove.program.loading import load_decoder
from specgrove.runtime.model_runner import ModelRunner
from tests.llm.mask_asker import LIMITS, TOKENIZER, Asker
from tests.llm.verifying import Clock


@pytest.fixture(scope="module")
def runner(tiny_llama: Path) -> ModelRunner:
    return ModelRunner(load_decoder(tiny_llama, torch.float32), num_slots=400)


class RunnerAhead(ModelRunner):
    """Takes a pass while the one before is under way, as a GPU's runner does: what that one chooses it puts in by itself."""

    max_num_ahead = 3

    def __init__(self, decoder: Decoder, num_slots: int) -> None:
        super().__init__(decoder, num_slots)
        self.num_ahead = 0
        self._chosen: list[int] = []

    def start(self, rows: PassRows) -> None:
        token_ids = rows.token_ids
        for row, token_id in enumerate(token_ids):
            if token_id < 0:
                token_ids[row] = max(0, self._chosen[-1 - token_id])
        self.num_ahead += len(self._finished) > 0
        assert len(self._finished) < 2
        super().start(rows)
        self._chosen = list(self._finished[-1].choices)

    def finish(self) -> PassOutput:
        output = super().finish()
        had_logits = len(output.logits) > 0 or len(output.log_probs) > 0
        assert not (had_logits and self._finished), "a later pass has taken the logits' place"
        return output


@pytest.fixture(scope="module")
def runner_ahead(tiny_llama: Path) -> RunnerAhead:
    return RunnerAhead(load_decoder(tiny_llama, torch.float32), num_slots=400)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def engine(runner: ModelRunner, clock: Clock) -> VerifierEngine:
    return VerifierEngine(runner, VerifierConfig(max_model_len=200, max_num_chunk_tokens=4), clock)


@pytest.fixture
def asker() -> Iterator[Asker]:
    """Its processes end with the test."""
    processes = MaskProcesses(TOKENIZER, LIMITS)
    yield Asker(processes)
    processes.close()

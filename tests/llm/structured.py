"""Structured outputs of an engine whose masks are made at once."""

from __future__ import annotations

from dataclasses import replace

from llm_service.config import VerifierConfig
from llm_service.structure import Structures
from llm_service.verifier import VerifierEngine
from specgrove.loop.request import SamplingParams
from specgrove.loop.works import Verdict
from specgrove.runtime.model_runner import ModelRunner
from tests.llm.masks_here import MasksHere
from tests.llm.verifying import PROMPT, ask, opening
from tests.structures.examples import EOS, tiny_vocabulary

TOKENIZER = tiny_vocabulary()
MAX_TOKENS = 60
GREEDY = SamplingParams(stop_token_ids=(EOS,))


def made(runner: ModelRunner) -> VerifierEngine:
    config = VerifierConfig(max_model_len=200, max_num_chunk_tokens=4)
    return VerifierEngine(runner, config, structures=Structures(MasksHere(TOKENIZER)))


def whole(engine: VerifierEngine, sampling: SamplingParams, prompt: list[int] = PROMPT) -> tuple[list[int], bool]:
    """An output of ``MAX_TOKENS`` at most, without what ended it, and whether something did."""
    engine.add(1, replace(opening("whole", prompt, sampling), num_steps=MAX_TOKENS))
    output: list[int] = []
    while engine.has_work():
        for _, verdict in engine.step():
            assert isinstance(verdict, Verdict), verdict
            output.extend(verdict.token_ids)
    engine.close_session("whole")
    has_ended = output[-1] in sampling.stop_token_ids
    return output[: len(output) - has_ended], has_ended


def first(engine: VerifierEngine, sampling: SamplingParams) -> Verdict:
    return ask(engine, opening("first", PROMPT, sampling))

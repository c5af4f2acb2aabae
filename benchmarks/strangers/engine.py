"""What one session does to the others of an LLM service: how long the engine's thread stands still for them, by kind.

    python -m benchmarks.strangers.engine --seconds 3 --kinds grammar penalties

The engine, its thread and the makers of masks are the real ones, with the tokenizer of a real model (``--model``); the model is none: a
pass takes ``--pass-ms``, in which the interpreter is free, and gives random logits. So what a step takes besides is the service's own work.
One session streams, others of a kind come, each the next when one has its answer. Told are the stream's largest gap by the clock and the
largest processor time of the thread in one of its turns, which does not depend on what else the machine does.
"""

from __future__ import annotations

import argparse
import gc
import random
import sys
import time
from collections import Counter, deque
from collections.abc import Callable
from concurrent.futures import Future, wait
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch

from benchmarks.strangers.attacks import ambiguous_grammar, intricate_schema
from llm_service.config import VerifierConfig
from llm_service.mask_processes import MaskProcesses
from llm_service.structure import Structures
from llm_service.verifier import VerifierEngine
from specgrove.config import DEFAULT_LLM
from specgrove.kernels.rows import HAS_LOGITS, PassRows
from specgrove.loop.request import SamplingParams
from specgrove.loop.token_tree import TokenTree
from specgrove.loop.works import LogProbs, PromptProgress, SessionParams, Verdict, VerifyWork
from specgrove.machine.cpus import available_cpus
from specgrove.program.backend import PassOutput
from specgrove.ranges import MAX_NUM_LOG_PROBS, MAX_NUM_LOGIT_BIASES
from specgrove.runtime.step_loop import StepLoop
from specgrove.structures.structured_output import StructuredOutput, StructureKind
from specgrove.tokenizer import Tokenizer

_MAX_MODEL_LEN = 100_000
_NUM_SLOTS = 1_000_000
_NUM_STEPS = 64
_NUM_STREAM_STEPS = 256
_LIMIT_MS = 50.0


class NoModel:
    """A ``Runner`` of random logits."""

    max_num_in_flight = 1
    max_num_ahead = 0
    choices_are_cheap = False
    num_slots = _NUM_SLOTS

    def __init__(self, vocab_size: int, pass_s: float) -> None:
        self.spec = SimpleNamespace(vocab_size=vocab_size)
        self.decoder = SimpleNamespace(hidden_layers=range(0))
        self._pass_s = pass_s
        self._logits = torch.randn(64, vocab_size, generator=torch.Generator().manual_seed(0))
        self._told = LogProbs(-1.0, 3, tuple((i, -2.0) for i in range(MAX_NUM_LOG_PROBS)))
        self._in_flight: deque[PassRows] = deque()
        self.finished_s: list[float] = []

    def start(self, rows: PassRows) -> None:
        """See ``Runner``."""
        self._in_flight.append(rows)

    def finish(self) -> PassOutput:
        """See ``Runner``."""
        time.sleep(self._pass_s)
        rows = self._in_flight.popleft()
        self.finished_s.append(time.monotonic())
        wanted = [choice for place, choice in enumerate(rows.choices) if place not in rows.known]
        choices = [HAS_LOGITS if choice is None else 40 for choice in wanted]
        return PassOutput(choices, self._logits[: choices.count(HAS_LOGITS)], log_probs=[self._told] * len(rows.known))

    def discard(self) -> None:
        """See ``Runner``."""
        self._in_flight.clear()


@dataclass(frozen=True, slots=True)
class Kind:
    """``num_at_once`` sessions of ``prompt_len`` tokens and an output of ``output_len`` that they go on from, each with ``make()``."""

    what: str
    make: Callable[[], SamplingParams]
    num_at_once: int = 8
    prompt_len: int = 8
    num_prompt_log_probs: int | None = None
    output_len: int = 0


def _flat(**fields: Any) -> SamplingParams:
    return SamplingParams(temperature=2.0, seed=5, **fields)


def _penalised() -> SamplingParams:
    return SamplingParams(repetition_penalty=1.2, frequency_penalty=0.1)


def _structured(kind: StructureKind, text: str) -> SamplingParams:
    return SamplingParams(structured_output=StructuredOutput(kind, (text,)), stop_token_ids=(2,))


KINDS = {
    "plain": Kind("plain outputs", SamplingParams),
    "grammar": Kind("an ambiguous grammar of 200 rules", lambda: _structured(StructureKind.GRAMMAR, ambiguous_grammar())),
    "schema": Kind("JSON schemas of 60 patterns", lambda: _structured(StructureKind.JSON_SCHEMA, intricate_schema())),
    "bias": Kind(
        "1,024 biases and 64 stop tokens",
        lambda: SamplingParams(
            logit_bias=tuple((i, 1.0) for i in range(MAX_NUM_LOGIT_BIASES)), stop_token_ids=tuple(range(64)), min_tokens=10**4
        ),
    ),
    "penalties": Kind("penalties behind 90,000 tokens", _penalised, prompt_len=90_000),
    "long-output": Kind("penalties of an output of 90,000 tokens", _penalised, output_len=90_000),
    "sampled": Kind("top-p, top-k and min-p over the vocabulary", lambda: _flat(top_p=0.999, top_k=40_000, min_p=1e-9)),
    "top-p": Kind("top-p of 0.999", lambda: _flat(top_p=0.999)),
    "top-k": Kind("top-k of 40", lambda: _flat(top_k=40)),
    "min-p": Kind("min-p of 1e-6", lambda: _flat(min_p=1e-6)),
    "many-sampled": Kind(
        "top-p, top-k and min-p, 64 at once", lambda: _flat(top_p=0.999, top_k=40_000, min_p=1e-9), num_at_once=64
    ),
    "log-probs": Kind("20 log-probabilities at each token", lambda: SamplingParams(num_log_probs=MAX_NUM_LOG_PROBS)),
    "prompts": Kind("90,000 token ids", SamplingParams, prompt_len=90_000),
    "prompt-log-probs": Kind(
        "20 log-probabilities at each of 20,000 tokens of a prompt", SamplingParams, 4, 20_000, num_prompt_log_probs=20
    ),
}  # fmt: skip


class Loop(StepLoop[VerifyWork, Verdict | PromptProgress]):
    """Knows the largest processor time of a turn."""

    longest_ms = 0.0

    def _turn(self) -> None:
        started_s = time.thread_time()
        super()._turn()
        self.longest_ms = max(self.longest_ms, (time.thread_time() - started_s) * 1e3)


def _opening(session_id: str, kind: Kind, num_steps: int, vocab_size: int) -> VerifyWork:
    generator = random.Random(session_id)
    prompt = tuple(generator.randrange(vocab_size) for _ in range(kind.prompt_len + kind.output_len))
    session = SessionParams(kind.make(), kind.prompt_len, num_prompt_log_probs=kind.num_prompt_log_probs)
    return VerifyWork(session_id, 0, prompt, TokenTree.of_root(prompt[-1]), session, num_steps=num_steps)


class Stream:
    """A session that goes on from one item to the next."""

    def __init__(self, loop: Loop, vocab_size: int) -> None:
        self._loop = loop
        self._goes_on = True
        self._ask(_opening("stream", KINDS["plain"], _NUM_STREAM_STEPS, vocab_size))

    def _ask(self, work: VerifyWork) -> None:
        self._loop.ask(work).add_done_callback(self._go_on)

    def _go_on(self, answered: Future[Any]) -> None:
        if self._goes_on:
            verdict: Verdict = answered.result()
            root = TokenTree.of_root(verdict.token_ids[-1])
            self._ask(
                VerifyWork("stream", verdict.base + len(verdict.token_ids), (), root, num_steps=_NUM_STREAM_STEPS)
            )

    def end(self) -> None:
        """At once."""
        self._goes_on = False
        self._loop.close_session("stream").result()


def measured(loop: Loop, runner: NoModel, kind: Kind | None, seconds: float) -> str:
    """A line's end."""
    vocab_size = runner.spec.vocab_size
    until_s, outcomes, number = time.monotonic() + seconds, Counter[str](), 0
    stream = Stream(loop, vocab_size)
    under_way: dict[Future[Any], str] = {}
    made = [] if kind is None else [_opening(str(i), kind, _NUM_STEPS, vocab_size) for i in range(kind.num_at_once)]
    time.sleep(0.2)
    runner.finished_s.clear()
    loop.longest_ms = 0.0
    while time.monotonic() < until_s:
        for work in made[len(under_way) :]:
            number += 1
            session_id = f"{number}"
            under_way[loop.ask(replace(work, session_id=session_id))] = session_id
        done = set[Future[Any]]()
        if under_way:
            done = wait(under_way, 0.1, "FIRST_COMPLETED").done
        else:
            time.sleep(0.1)
        for future in done:
            outcomes["OK" if future.exception() is None else type(future.exception()).__name__] += 1
            loop.close_session(under_way.pop(future))
    gaps = sorted([0.0] + [(b - a) * 1e3 for a, b in zip(runner.finished_s, runner.finished_s[1:], strict=False)])
    longest_ms = loop.longest_ms
    stream.end()
    for session_id in under_way.values():
        loop.close_session(session_id).result()
    told = ", ".join(f"{number} {status}" for status, number in sorted(outcomes.items()))
    num_long = sum(gap > _LIMIT_MS for gap in gaps)
    return (
        f"gap {gaps[-1]:5.0f} ms (median {gaps[len(gaps) // 2]:.1f}, {num_long} above {_LIMIT_MS:.0f}); "
        f"longest turn {longest_ms:5.1f} ms; {told}"
    )


def main() -> int:
    """Exit code 0."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.strangers.engine", description=__doc__.splitlines()[0])
    parser.add_argument("--kinds", nargs="+", choices=tuple(KINDS), default=[kind for kind in KINDS if kind != "plain"])
    parser.add_argument("--seconds", type=float, default=5.0, help="for each kind")
    parser.add_argument("--pass-ms", type=float, default=10.0)
    parser.add_argument("--threads", type=int, default=available_cpus(), help="that make choices")
    parser.add_argument("--model", type=Path, help=f"a folder with a tokenizer (default: {DEFAULT_LLM})")
    arguments = parser.parse_args()
    # As the service does.
    torch.set_num_threads(1)
    gc.collect()
    gc.freeze()
    tokenizer = Tokenizer.from_folder(arguments.model or Path("~/.cache/specgrove").expanduser() / DEFAULT_LLM)
    runner = NoModel(tokenizer.vocab_size, arguments.pass_ms / 1e3)
    masks = MaskProcesses(tokenizer)
    config = VerifierConfig(_MAX_MODEL_LEN, has_prefix_cache=False, num_walk_threads=arguments.threads)
    engine = VerifierEngine(runner, config, structures=Structures(masks))  # type: ignore[arg-type]
    loop = Loop(engine, "verifier")
    engine.structures.wake_up = loop.wake_up
    for kind in (None, *(KINDS[name] for name in arguments.kinds)):
        print(f"{kind.what if kind else 'nobody else'}: {measured(loop, runner, kind, arguments.seconds)}", flush=True)
    loop.stop()
    masks.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""Runs passes through one decoder and owns its KV cache. Decides nothing: schedulers plan, engines apply."""

from __future__ import annotations

import time
from collections import deque
from typing import Protocol

import torch

from specgrove.kernels.device_memory import AttentionHeads
from specgrove.kernels.rows import PassRows
from specgrove.kernels.sampling import ChoiceParams, RowChoice
from specgrove.models.decoder.spec import DecoderSpec
from specgrove.program.backend import KvCaches, PassOutput
from specgrove.program.decoder import Decoder
from specgrove.runtime.known_tokens import with_log_probs
from specgrove.runtime.pass_builder import PassBuilder, TreeRows
from specgrove.runtime.step_loop import FatalEngineError
from specgrove.runtime.top_k import TopK, top_k_of

_MEASURED_K = 4


class RankFailedError(FatalEngineError):
    """Another rank of a parallel model is gone or doesn't answer: this process can't go on."""


class Runner(Protocol):
    """What an engine drives: forwards begun in order and finished in order, up to ``max_num_in_flight`` at a time."""

    decoder: Decoder
    """Of a model over ranks, this process's part of it."""
    spec: DecoderSpec
    num_slots: int
    max_num_in_flight: int
    choices_are_cheap: bool
    """Whether a pass may well make choices of which few will be looked at."""
    max_num_ahead: int
    """The most asked rows of a pass after which the next may begin before its choices are known here; 0: none may.

    In the next pass token id -1 stands for the choice of the first asked row of the pass before, -2 for the second. Both passes must be
    asked for choices only. Not for runners with ``max_num_in_flight`` above 1.
    """

    def start(self, rows: PassRows) -> None:
        """Begins a forward; the rows' keys and values go into their slots."""
        ...

    def finish(self) -> PassOutput:
        """Waits for the oldest forward. It has log-probabilities of known tokens, and choices where they were asked for, unless this
        runner gives logits only.
        """
        ...

    def discard(self) -> None:
        """Waits for all forwards begun, and forgets their results."""
        ...


class DraftRunner(Runner, Protocol):
    """What an SSM drives: a pass begun, and ended before the next begins."""

    def start_top_k(self, rows: PassRows, k: int) -> None:
        """Begins a forward that is asked for the ``k`` most probable tokens after each asked row."""
        ...

    def finish_top_k(self, k: int) -> TopK:
        """Waits for it; ``k`` as at its beginning."""
        ...


class ModelRunner:
    """One decoder with a KV cache of ``num_slots`` one-token slots in the decoder's dtype. The ``Runner`` of one process."""

    max_num_in_flight = 1
    choices_are_cheap = False
    max_num_ahead = 0

    def __init__(self, decoder: Decoder, num_slots: int) -> None:
        self.decoder = decoder
        self.spec = decoder.spec
        self.num_slots = num_slots
        self._caches = kv_caches(decoder, num_slots)
        self._finished: deque[PassOutput] = deque()
        self._top_k: deque[TopK] = deque()

    def forward(self, rows: PassRows) -> torch.Tensor:
        """A pass that is asked for logits only: float32 ``[num_asked, vocab_size]`` on the CPU."""
        return with_log_probs(rows, self.run(rows)).logits

    def run(self, rows: PassRows, hidden: torch.Tensor | None = None) -> PassOutput:
        """A pass from beginning to end, as the decoder gives it. ``hidden``: what the stage before this one gave."""
        try:
            return self.decoder.run(rows, self._caches, hidden)
        except torch.AcceleratorError as error:  # the device is lost to this process: the supervisor starts another
            raise FatalEngineError(f"{self.decoder.device}: {error}") from error

    def start(self, rows: PassRows) -> None:
        """See ``Runner``."""
        self._finished.append(with_log_probs(rows, self.run(rows)))

    def finish(self) -> PassOutput:
        """See ``Runner``."""
        return self._finished.popleft()

    def start_top_k(self, rows: PassRows, k: int) -> None:
        """See ``DraftRunner``."""
        self._top_k.append(top_k_of(self.forward(rows), k))

    def finish_top_k(self, k: int) -> TopK:
        """See ``DraftRunner``."""
        return self._top_k.popleft()

    def discard(self) -> None:
        """See ``Runner``."""
        self._finished.clear()
        self._top_k.clear()


class HasCaches(Protocol):
    """What a cache is made for."""

    @property
    def heads(self) -> AttentionHeads:
        """Of each of its layers."""
        ...

    @property
    def num_layers(self) -> int:
        """So many pairs of caches."""
        ...

    dtype: torch.dtype
    device: torch.device


def kv_caches(decoder: HasCaches, num_slots: int) -> KvCaches:
    """One allocation per layer; of the CPU's memory only what is used is taken."""
    shape = (num_slots, decoder.heads.num_kv_heads, decoder.heads.head_dim)
    keys, values = (
        tuple(torch.empty(shape, dtype=decoder.dtype, device=decoder.device) for _ in range(decoder.num_layers))
        for _ in range(2)
    )
    return KvCaches(keys, values)


def pass_ms(runner: Runner, scratch_slots: list[int]) -> float:
    """Wall time of one pass over a chain of as many rows as there are ``scratch_slots``, where their keys and values go.

    It is asked for greedy choices. No forward may be under way.
    """
    rows = _chain(scratch_slots, [RowChoice(ChoiceParams(), position) for position in range(len(scratch_slots))])
    started_s = time.perf_counter()
    runner.start(rows)
    runner.finish()
    return (time.perf_counter() - started_s) * 1e3


def level_ms(runner: DraftRunner, scratch_slots: list[int]) -> float:
    """The same of an SSM's pass that is asked for the most probable tokens."""
    rows = _chain(scratch_slots, None)
    started_s = time.perf_counter()
    runner.start_top_k(rows, _MEASURED_K)
    runner.finish_top_k(_MEASURED_K)
    return (time.perf_counter() - started_s) * 1e3


def _chain(slots: list[int], choices: list[RowChoice] | None) -> PassRows:
    builder = PassBuilder()
    num_tokens = len(slots)
    builder.add([], tree=TreeRows([0] * num_tokens, range(-1, num_tokens - 1), slots), choices=choices)
    return builder.build()

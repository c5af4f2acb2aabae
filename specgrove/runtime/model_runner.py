"""Runs forward batches through one decoder and owns its KV cache. Decides nothing: schedulers plan, engines apply."""

from __future__ import annotations

import time
from collections import deque
from typing import Protocol

import torch

from specgrove.models.decoder import Decoder
from specgrove.models.forward_batch import ForwardBatch, ForwardOutput
from specgrove.models.spec import DecoderSpec
from specgrove.runtime.forward_batch import BatchBuilder, TreeRows
from specgrove.runtime.step_loop import FatalEngineError


class RankFailedError(FatalEngineError):
    """Another rank of a parallel model is gone or doesn't answer: this process can't go on."""


class Runner(Protocol):
    """What an engine drives: forwards begun in order and finished in order, up to ``max_num_in_flight`` at a time."""

    spec: DecoderSpec
    num_slots: int
    max_num_in_flight: int

    def start(self, batch: ForwardBatch) -> None:
        """Begins a forward; the rows' keys and values go into their slots."""
        ...

    def finish(self) -> ForwardOutput:
        """Waits for the oldest forward. It has choices where the batch asked for them, unless this runner gives logits only."""
        ...

    def discard(self) -> None:
        """Waits for all forwards begun, and forgets their results."""
        ...


class ModelRunner:
    """One decoder with a KV cache of ``num_slots`` one-token slots in the decoder's dtype. The ``Runner`` of one process."""

    max_num_in_flight = 1

    def __init__(self, decoder: Decoder, num_slots: int) -> None:
        self.decoder = decoder
        self.spec = decoder.spec
        self.num_slots = num_slots
        # One allocation per layer; memory is touched, and so taken, only where slots are used.
        shape = (num_slots, decoder.heads.num_kv, decoder.spec.head_dim)
        self._k_caches, self._v_caches = (
            tuple(torch.empty(shape, dtype=decoder.dtype, device=decoder.device) for _ in range(decoder.num_layers))
            for _ in range(2)
        )
        self._finished: deque[ForwardOutput] = deque()

    def forward(self, batch: ForwardBatch) -> torch.Tensor:
        """A pass that is asked for logits only: float32 ``[num_logit_rows, vocab_size]`` on the CPU."""
        return self._run(batch).logits

    def _run(self, batch: ForwardBatch) -> ForwardOutput:
        try:
            return self.decoder.forward(batch.to(self.decoder.device), self._k_caches, self._v_caches)
        except torch.AcceleratorError as error:  # the device is lost to this process: the supervisor starts another
            raise FatalEngineError(f"{self.decoder.device}: {error}") from error

    def run_stage(self, hidden: torch.Tensor, batch: ForwardBatch) -> torch.Tensor:
        """This rank's layers, from hidden states to hidden states."""
        return self.decoder.run_layers(hidden, batch, self._k_caches, self._v_caches)

    def start(self, batch: ForwardBatch) -> None:
        """See ``Runner``."""
        self._finished.append(self._run(batch))

    def finish(self) -> ForwardOutput:
        """See ``Runner``."""
        return self._finished.popleft()

    def discard(self) -> None:
        """See ``Runner``."""
        self._finished.clear()


def measure_step_ms(runner: Runner, num_tokens: int, scratch_slots: list[int], num_runs: int = 5) -> float:
    """Median wall time of a forward over a chain of ``num_tokens`` rows, whose keys and values go to ``scratch_slots``.

    No forward may be under way.
    """
    builder = BatchBuilder()
    builder.add([], tree=TreeRows([0] * num_tokens, range(-1, num_tokens - 1), scratch_slots[:num_tokens]))
    batch = builder.build()
    times_ms = []
    for _ in range(num_runs):
        started_s = time.perf_counter()
        runner.start(batch)
        runner.finish()
        times_ms.append((time.perf_counter() - started_s) * 1e3)
    return sorted(times_ms)[num_runs // 2]

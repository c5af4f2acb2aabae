"""Runs forward batches through one decoder and owns its KV cache. Decides nothing: schedulers plan, engines apply."""

from __future__ import annotations

import time

import torch

from specgrove.models.decoder import Decoder
from specgrove.models.forward_batch import ForwardBatch
from specgrove.runtime.forward_batch import BatchBuilder, TreeRows


class ModelRunner:
    """One decoder with a KV cache of ``num_slots`` one-token slots in the decoder's dtype."""

    def __init__(self, decoder: Decoder, num_slots: int) -> None:
        self.decoder = decoder
        self.num_slots = num_slots
        spec = decoder.spec
        # One allocation per layer; memory is touched, and so taken, only where slots are used.
        shape = (num_slots, spec.num_kv_heads, spec.head_dim)
        self._k_caches = [torch.empty(shape, dtype=decoder.dtype) for _ in range(spec.num_layers)]
        self._v_caches = [torch.empty(shape, dtype=decoder.dtype) for _ in range(spec.num_layers)]

    def forward(self, batch: ForwardBatch) -> torch.Tensor:
        """Writes the rows' keys and values into their slots; returns logits float32 ``[num_logit_rows, vocab_size]``."""
        return self.decoder.forward(batch, self._k_caches, self._v_caches)

    def measure_step_ms(self, num_tokens: int, scratch_slots: list[int], num_runs: int = 5) -> float:
        """Median wall time of a forward over a chain of ``num_tokens`` rows, whose keys and values go to ``scratch_slots``."""
        builder = BatchBuilder()
        parents = range(-1, num_tokens - 1)
        builder.add([], tree=TreeRows([0] * num_tokens, parents, scratch_slots[:num_tokens]))
        batch = builder.build()
        times_ms = []
        for _ in range(num_runs):
            started_s = time.perf_counter()
            self.forward(batch)
            times_ms.append((time.perf_counter() - started_s) * 1e3)
        return sorted(times_ms)[num_runs // 2]

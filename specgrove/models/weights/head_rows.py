"""Where checkpoints keep attention heads: in linears of their own, or in one. Made by the families for ``ShardReader``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from specgrove.models.decoder.spec import DecoderSpec


@dataclass(frozen=True, slots=True)
class HeadRows:
    """Where a checkpoint keeps its heads: the tensor, and which block of ``head_dim`` rows of it, for every head in order."""

    q: Sequence[tuple[str, int]]
    k: Sequence[tuple[str, int]]
    v: Sequence[tuple[str, int]]

    @staticmethod
    def separate(q: str, k: str, v: str, spec: DecoderSpec) -> HeadRows:
        """Three linears."""
        kv = range(spec.num_kv_heads)
        return HeadRows([(q, i) for i in range(spec.num_heads)], [(k, i) for i in kv], [(v, i) for i in kv])

    @staticmethod
    def fused(name: str, spec: DecoderSpec) -> HeadRows:
        """One linear: all query heads, all key heads, all value heads."""
        num_q, num_kv = spec.num_heads, spec.num_kv_heads
        blocks = [(name, i) for i in range(num_q + 2 * num_kv)]
        return HeadRows(blocks[:num_q], blocks[num_q : num_q + num_kv], blocks[num_q + num_kv :])

    @staticmethod
    def grouped(name: str, spec: DecoderSpec) -> HeadRows:
        """One linear, by KV head: its query heads, its key, its value."""
        group = spec.num_heads // spec.num_kv_heads
        starts = [kv * (group + 2) for kv in range(spec.num_kv_heads)]
        return HeadRows(
            q=[(name, start + i) for start in starts for i in range(group)],
            k=[(name, start + group) for start in starts],
            v=[(name, start + group + 1) for start in starts],
        )

"""Which models the kernels for GPUs can run, by their specs. Asked before a service starts, and before a program is made; no torch."""

from __future__ import annotations

from specgrove.kernels.device_memory import HEAD_DIMS, MAX_GROUP_SIZE, AttentionHeads
from specgrove.models.decoder.spec import DecoderSpec

_DTYPES = ("bfloat16", "float16")


def why_not(spec: DecoderSpec, dtype: str) -> str | None:
    """What of a model they can't run; ``None`` where they run all of it."""
    return why_not_heads(AttentionHeads(spec.num_heads, spec.num_kv_heads, spec.head_dim), dtype)


def why_not_heads(heads: AttentionHeads, dtype: str) -> str | None:
    """The same of a model, or of a rank's share of it, that has these heads."""
    if dtype not in _DTYPES:
        return f"they take {' and '.join(_DTYPES)}, not {dtype}"
    if heads.head_dim not in HEAD_DIMS:
        return f"they take heads of size {', '.join(map(str, HEAD_DIMS))}, not {heads.head_dim}"
    group_size = heads.num_heads // heads.num_kv_heads
    if group_size > MAX_GROUP_SIZE:
        return f"they take up to {MAX_GROUP_SIZE} query heads of one KV head, not {group_size}"
    return None

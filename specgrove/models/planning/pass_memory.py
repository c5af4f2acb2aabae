"""What passes on the kernels for GPUs take beside weights and caches, from a model's spec alone. Added up here, for the memory plan.

The allocations are ``specgrove.program``'s and ``GraphRunner``'s; ``specgrove.kernels.device_memory`` has the arithmetic of each.
"""

from __future__ import annotations

from specgrove.kernels.device_memory import AttentionHeads, PassLimits, PlanCapacity, RoomSizes, max_workspace_bytes
from specgrove.models.decoder.sharding import Shard, heads_of, mlp_part, vocab_part
from specgrove.models.decoder.spec import DecoderSpec


def room_sizes(spec: DecoderSpec, shard: Shard) -> RoomSizes:
    """Of the buffers that ``specgrove.program.build`` asks for."""
    heads, mlp, hidden = heads_of(spec, shard), len(mlp_part(spec, shard)), spec.hidden_size
    attended, wide = heads.num_q * spec.head_dim, widest_outputs(spec, shard)
    has_ends = shard.is_first_stage or shard.is_last_stage
    embedded = max(hidden, spec.embedding_size or 0) if has_ends else hidden
    norms_are_inputs = spec.residual != "post_norm"
    return RoomSizes(
        # Hidden states, and what attention and the MLP add; the widest linear's output.
        float_width=2 * hidden + embedded + wide + (0 if norms_are_inputs else hidden),
        # Queries, what they attend or the MLP's inner numbers, and norms.
        input_width=attended + max(attended, mlp) + (hidden if norms_are_inputs else 0),
        vocab_size=spec.vocab_size if shard.is_last_stage else 0,
    )


def captured_bytes(spec: DecoderSpec, shard: Shard, limits: PassLimits, dtype_bytes: int, num_processors: int) -> int:
    """What a ``CapturedProgram`` keeps for passes within limits, without hidden states that are taken in or handed out."""
    heads = heads_of(spec, shard)
    shape = AttentionHeads(heads.num_q, heads.num_kv, spec.head_dim)
    plan = PlanCapacity.within(limits, shape, num_processors).num_bytes(shape)
    return room_sizes(spec, shard).num_bytes(limits, dtype_bytes) + limits.number_bytes + plan


def gpu_pass_bytes(spec: DecoderSpec, shard: Shard, limits: PassLimits, dtype_bytes: int, num_processors: int) -> int:
    """All that passes take on a GPU: also the linears' workspace, and for a while the parts of sums and the logits that the host wants."""
    passing = 0
    if shard.is_last_stage:
        passing = 4 * limits.max_num_asked * spec.vocab_size  # those that the host wants
    if shard.tensor_size > 1:
        parts = 4 * limits.max_num_rows * spec.hidden_size * shard.tensor_size
        own = 4 * limits.max_num_asked * len(vocab_part(spec, shard)) if shard.is_last_stage else 0
        passing = max(passing + own, parts) + passing  # each rank's, then side by side
    kept = captured_bytes(spec, shard, limits, dtype_bytes, num_processors) + limits.answer_bytes
    return kept + passing + max_workspace_bytes()


def widest_outputs(spec: DecoderSpec, shard: Shard) -> int:
    """The most outputs of any of a layer's linears."""
    heads, mlp = heads_of(spec, shard), len(mlp_part(spec, shard))
    return max(mlp * (2 if spec.is_gated else 1), (heads.num_q + 2 * heads.num_kv) * spec.head_dim)

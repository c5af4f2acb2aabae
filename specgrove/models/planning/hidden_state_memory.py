"""What a pass takes more where it hands out hidden states for SSMs, from a model's spec alone. Added up here, for the memory plan.

Such passes run where a session asks for them; the allocations are ``specgrove.program.keeping``'s programs' and those of
``specgrove.runtime.hidden_values``. Ranks of other stages than the first hand none out.
"""

from __future__ import annotations

from specgrove.kernels.device_memory import PassLimits
from specgrove.models.decoder.sharding import Shard
from specgrove.models.decoder.spec import DecoderSpec
from specgrove.models.planning.pass_memory import captured_bytes

PLANNED_LAYERS = 3
"""What sessions will ask for isn't known when a model is loaded: EAGLE-3's SSMs read hidden states at three layers."""
_HANDED_OUT_BYTES = 4  # of a number: float32
# As bytes, those left for messages, and in a message; where torch rounds them also those chosen, side by side, and rounded.
_TOLD_BYTES = 2 + 2 + 2
_ROUNDED_BY_TORCH_BYTES = 4 + 4 + 2


def handed_out_bytes(spec: DecoderSpec, shard: Shard, num_rows: int, num_layers: int = PLANNED_LAYERS) -> int:
    """Of so many rows of a pass, at so many layers: float32."""
    return _HANDED_OUT_BYTES * _num_numbers(spec, shard, num_rows, num_layers)


def told_bytes(
    spec: DecoderSpec, shard: Shard, num_rows: int, num_layers: int = PLANNED_LAYERS, *, on_gpu: bool = False
) -> int:
    """What it takes beside them at most to tell a session all of them: copies, and the messages."""
    of_number = _TOLD_BYTES + (_ROUNDED_BY_TORCH_BYTES if on_gpu else 0)
    return of_number * _num_numbers(spec, shard, num_rows, num_layers)


def gpu_apart_bytes(
    spec: DecoderSpec, shard: Shard, limits: PassLimits, dtype_bytes: int, num_processors: int, num_layers: int
) -> int:
    """On a GPU: these passes run beside the graphs, in room of their own. Of steps there may be two, the second ahead."""
    if not _hands_out(shard):
        return 0

    def of(num_rows: int) -> int:
        within = PassLimits(num_rows, limits.max_num_asked, limits.max_model_len, limits.num_slots)
        room = captured_bytes(spec, shard, within, dtype_bytes, num_processors)
        return room + handed_out_bytes(spec, shard, num_rows, num_layers)

    return max(of(limits.max_num_rows), 2 * of(limits.max_num_asked))


def _num_numbers(spec: DecoderSpec, shard: Shard, num_rows: int, num_layers: int) -> int:
    there = shard.end_layer - shard.first_layer + 1
    return num_rows * spec.hidden_size * min(num_layers, there) if _hands_out(shard) else 0


def _hands_out(shard: Shard) -> bool:
    return shard.is_first_stage

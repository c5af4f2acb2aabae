"""How much memory one rank of a model takes, from its spec alone: weights, KV slots, activations. Called before anything is loaded.

Used to say at start what will be taken, to turn an amount of memory into a number of KV slots, and to refuse what doesn't fit while saying
which setting would. All figures are bytes of one rank.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from specgrove.config import DEFAULT_MAX_CHUNK_TOKENS, DEFAULT_MAX_TREE_ROWS, MAX_NUM_KNOWN_ROWS, MIN_NUM_SLOTS
from specgrove.kernels.device_memory import EXPANSION_BYTES, PassLimits
from specgrove.models.decoder.parallel_layout import ParallelLayout
from specgrove.models.decoder.sharding import Shard, heads_of, mlp_part, vocab_part
from specgrove.models.decoder.spec import DecoderSpec
from specgrove.models.planning.hidden_state_memory import (
    PLANNED_LAYERS,
    gpu_apart_bytes,
    handed_out_bytes,
    told_bytes,
)
from specgrove.models.planning.pass_memory import gpu_pass_bytes, widest_outputs
from specgrove.settings.values import parse_bytes

_DTYPE_BYTES = {"float32": 4.0, "bfloat16": 2.0, "float16": 2.0}
# Codes plus scales: int8 one scale a row; int4 a scale and a minimum for every 32 inputs, which CPUs keep in 16 bits.
_CODE_BYTES = {"int8": 1.0, "int4": 0.5 + 4 / 32}
_GPU_CODE_BYTES = {"int8": 1.0, "int4": 0.5 + 8 / 32}
_GIB, _MIB = 1 << 30, 1 << 20


class DoesNotFitError(ValueError):
    """A plan takes more than there is. The text has the plan and the settings that would fit."""


@dataclass(frozen=True, slots=True)
class MemoryRequest:
    """What the plan depends on. ``quantization`` is None, "int8" or "int4"."""

    dtype: str
    quantization: str | None
    layout: ParallelLayout
    num_slots: int
    max_num_rows: int
    """Rows of one forward pass at most."""
    max_num_asked: int
    """Those of them whose logits are wanted."""
    max_weight_bytes: int | None = None
    """What a rank's weights may take of the memory; the rest stays in a file, or in the host's memory."""
    on_gpu: bool = False
    """There embeddings are never offloaded."""
    num_gpu_processors: int | None = None
    """Of a GPU whose kernels run; ``None``: they don't, and quantised weights are expanded for every use."""
    max_model_len: int | None = None
    """Longest sequence; ``None``: what the model allows."""
    num_hidden_layers: int = PLANNED_LAYERS
    """Layers whose hidden states sessions may ask for."""


@dataclass(frozen=True, slots=True)
class MemoryPlan:
    """Bytes of one rank."""

    rank: int
    weight_bytes: int
    slot_bytes: int
    """Bytes of one KV slot in all of the rank's layers."""
    num_slots: int
    activation_bytes: int

    @property
    def kv_bytes(self) -> int:
        """Bytes of all KV slots."""
        return self.slot_bytes * self.num_slots

    @property
    def total_bytes(self) -> int:
        """All of it."""
        return self.weight_bytes + self.kv_bytes + self.activation_bytes

    def __str__(self) -> str:
        return (
            f"rank {self.rank}: weights {gibibytes(self.weight_bytes)}, {self.num_slots} KV slots {gibibytes(self.kv_bytes)}, "
            f"activations {gibibytes(self.activation_bytes)}, together {gibibytes(self.total_bytes)}"
        )


def gibibytes(num_bytes: float) -> str:
    """For people."""
    return f"{num_bytes / _GIB:.2f} GiB"


def plan_memory(spec: DecoderSpec, request: MemoryRequest) -> tuple[MemoryPlan, ...]:
    """A plan per rank. Raises ``ValueError`` where the model can't be divided so."""
    return tuple(_plan_rank(spec, request, rank) for rank in range(request.layout.num_ranks))


def _plan_rank(spec: DecoderSpec, request: MemoryRequest, rank: int) -> MemoryPlan:
    shard = request.layout.shard_of(rank, spec)
    heads = heads_of(spec, shard)
    num_layers = shard.end_layer - shard.first_layer
    slot_elements = 2 * num_layers * heads.num_kv * spec.head_dim
    return MemoryPlan(
        rank=rank,
        weight_bytes=_weight_bytes(spec, request, shard),
        slot_bytes=int(slot_elements * _DTYPE_BYTES[request.dtype]),
        num_slots=request.num_slots,
        activation_bytes=_activation_bytes(spec, request, shard) + _rotary_bytes(spec, shard),
    )


def _activation_bytes(spec: DecoderSpec, request: MemoryRequest, shard: Shard) -> int:
    if request.num_gpu_processors is not None:
        max_model_len = min(request.max_model_len or spec.max_position_embeddings, request.num_slots)
        limits = PassLimits(request.max_num_rows, request.max_num_asked, max_model_len, request.num_slots)
        of_kernels = limits, int(_DTYPE_BYTES[request.dtype]), request.num_gpu_processors
        apart = gpu_apart_bytes(spec, shard, *of_kernels, request.num_hidden_layers)
        return gpu_pass_bytes(spec, shard, *of_kernels) + apart + _told_bytes(spec, request, shard)
    # Float32 between kernels: hidden states four times, and as often as there are ranks; the widest linear's output and what follows it.
    num_hidden = 4 + (shard.tensor_size if shard.tensor_size > 1 else 0)
    total = 4 * request.max_num_rows * (num_hidden * spec.hidden_size + 2 * widest_outputs(spec, shard))
    total += handed_out_bytes(spec, shard, request.max_num_rows, request.num_hidden_layers)
    total += _told_bytes(spec, request, shard)
    if shard.is_last_stage:
        copies = 3 if shard.tensor_size > 1 else 1  # over several ranks their parts, and all of them put together
        total += 4 * request.max_num_asked * spec.vocab_size * copies
    if request.on_gpu and request.quantization is not None:
        total += _expansion_bytes(spec, request, shard)
    return total


def _told_bytes(spec: DecoderSpec, request: MemoryRequest, shard: Shard) -> int:
    on_gpu = request.on_gpu or request.num_gpu_processors is not None
    return told_bytes(spec, shard, request.max_num_rows, request.num_hidden_layers, on_gpu=on_gpu)


def _rotary_bytes(spec: DecoderSpec, shard: Shard) -> int:
    rotaries = {layer.rotary for layer in spec.layers[shard.first_layer : shard.end_layer]} - {None}
    return 4 * len(rotaries) * spec.max_position_embeddings * spec.head_dim


def _weight_bytes(spec: DecoderSpec, request: MemoryRequest, shard: Shard) -> int:
    dtype_bytes = _DTYPE_BYTES[request.dtype]
    code_bytes = _GPU_CODE_BYTES if request.on_gpu else _CODE_BYTES
    linear_bytes = dtype_bytes if request.quantization is None else code_bytes[request.quantization]
    head_bytes = dtype_bytes if request.quantization is None else _CODE_BYTES["int8"]  # the head keeps 8 bits
    vocab = _vocab_elements(spec, shard)
    # Also a tied head is there twice: as a table of rows, and as a linear.
    table = vocab * dtype_bytes if shard.is_first_stage else 0
    units = [_layer_elements(spec, shard) * linear_bytes] * (shard.end_layer - shard.first_layer)
    units.append(vocab * head_bytes if shard.is_last_stage else 0)
    total = table + sum(units)
    if request.max_weight_bytes is not None:
        least = sum(sorted(units)[-2:]) + (table if request.on_gpu else 0)
        total = min(total, max(least, request.max_weight_bytes))
    return math.ceil(total)


def _layer_elements(spec: DecoderSpec, shard: Shard) -> int:
    heads = heads_of(spec, shard)
    attention = spec.hidden_size * spec.head_dim * (2 * heads.num_q + 2 * heads.num_kv)
    return attention + spec.hidden_size * len(mlp_part(spec, shard)) * (3 if spec.is_gated else 2)


def _vocab_elements(spec: DecoderSpec, shard: Shard) -> int:
    return len(vocab_part(spec, shard)) * (spec.embedding_size or spec.hidden_size)


def _expansion_bytes(spec: DecoderSpec, request: MemoryRequest, shard: Shard) -> int:
    """Bytes of the largest linear, expanded."""
    vocab = _vocab_elements(spec, shard) if shard.is_last_stage else 0
    largest = max(widest_outputs(spec, shard) * spec.hidden_size, vocab)
    return int(largest * _DTYPE_BYTES[request.dtype]) + EXPANSION_BYTES


def weight_bytes_left(spec: DecoderSpec, request: MemoryRequest, available_bytes: int, ranks: range) -> int:
    """What is left for the weights of each of the ranks that share this memory, beside KV slots and activations. At least 1."""
    others = sum(plan.kv_bytes + plan.activation_bytes for plan in _plans_of(spec, request, ranks))
    return max(1, (available_bytes - others) // len(ranks))


def slots_in(spec: DecoderSpec, request: MemoryRequest, *, kv_bytes: int | None, rank_bytes: int | None) -> int:
    """KV slots that ``kv_bytes`` of every rank hold, or what ``rank_bytes`` leave beside weights and activations.

    Raises ``DoesNotFitError`` where they are too few for any request.
    """
    plans = plan_memory(spec, replace(request, num_slots=0))
    rooms = [
        kv_bytes if kv_bytes is not None else (rank_bytes or 0) - plan.weight_bytes - plan.activation_bytes
        for plan in plans
    ]
    num_slots = min(room // plan.slot_bytes for room, plan in zip(rooms, plans, strict=True))
    if kv_bytes is None and num_slots > 0:
        # What attention takes on a GPU grows with the slots.
        sizes = range(num_slots + 1)
        num_slots = bisect_right(sizes, rank_bytes or 0, key=lambda n: _largest_rank_bytes(spec, request, n)) - 1
    if num_slots < MIN_NUM_SLOTS:
        raise DoesNotFitError(_too_little(plans, kv_bytes, rank_bytes or 0, max(0, num_slots)))
    return num_slots


def _too_little(plans: Sequence[MemoryPlan], kv_bytes: int | None, rank_bytes: int, num_slots: int) -> str:
    """Whose plans are those without slots."""
    largest = max(plans, key=lambda plan: plan.total_bytes + MIN_NUM_SLOTS * plan.slot_bytes)
    least = MIN_NUM_SLOTS * max(plan.slot_bytes for plan in plans)
    if kv_bytes is not None:
        flag, given, beside = "--kv-memory", kv_bytes, f"one takes {least // MIN_NUM_SLOTS} bytes"
    else:
        flag, given = "--memory-per-gpu", rank_bytes
        least += largest.total_bytes
        beside = f"weights take {gibibytes(largest.weight_bytes)} and activations {gibibytes(largest.activation_bytes)}"
    return (
        f"{flag} {parse_bytes.write(given)} has room for {num_slots} KV slots, and {MIN_NUM_SLOTS} are the least: {beside}; "
        f"give {flag} {-(-least // _MIB)}MiB or more"
    )


def _largest_rank_bytes(spec: DecoderSpec, request: MemoryRequest, num_slots: int) -> int:
    return max(plan.total_bytes for plan in plan_memory(spec, replace(request, num_slots=num_slots)))


def check_fits(spec: DecoderSpec, request: MemoryRequest, available_bytes: int, ranks: range) -> None:
    """Raises ``DoesNotFitError`` where the ranks that share this memory (a machine's, or one on its GPU) don't fit together into it."""
    plans = _plans_of(spec, request, ranks)
    needed = sum(plan.total_bytes for plan in plans)
    if needed <= available_bytes:
        return
    ways = [
        flag
        for flag, other in _others(spec, request, available_bytes, ranks)
        if _needed(spec, other, ranks) <= available_bytes
    ]
    advice = (
        f"what would fit: {', or '.join(ways)}" if ways else "no setting makes it fit: spread it over more machines"
    )
    raise DoesNotFitError(
        f"{gibibytes(needed)} are needed and {gibibytes(available_bytes)} available: "
        f"{'; '.join(map(str, plans))}; {advice}"
    )


def _plans_of(spec: DecoderSpec, request: MemoryRequest, ranks: range) -> tuple[MemoryPlan, ...]:
    return plan_memory(spec, request)[ranks.start : ranks.stop]


def _needed(spec: DecoderSpec, request: MemoryRequest, ranks: range) -> int:
    return sum(plan.total_bytes for plan in _plans_of(spec, request, ranks))


def _fewer_slots(spec: DecoderSpec, request: MemoryRequest, available_bytes: int, ranks: range) -> int:
    """As many as fill seven eighths of the room, in round numbers: 2048 at least, and no more than are asked for."""
    others, of_one = (_needed(spec, replace(request, num_slots=number), ranks) for number in (0, 1))
    found = (available_bytes - others) * 7 // 8 // (of_one - others)
    return min(max(2048, found - found % 1024), request.num_slots)


def _others(
    spec: DecoderSpec, request: MemoryRequest, available_bytes: int, ranks: range
) -> Iterable[tuple[str, MemoryRequest]]:
    """Settings that take less, the mildest first."""
    fewer = _fewer_slots(spec, request, available_bytes, ranks)
    if fewer < request.num_slots:
        yield f"--kv-slots {fewer}", replace(request, num_slots=fewer)
    if request.dtype == "float32":
        yield "--dtype bfloat16", replace(request, dtype="bfloat16")
    usual = DEFAULT_MAX_CHUNK_TOKENS + DEFAULT_MAX_TREE_ROWS, DEFAULT_MAX_TREE_ROWS + MAX_NUM_KNOWN_ROWS
    if request.max_num_rows > usual[0]:
        flags = f"--max-chunk-tokens {DEFAULT_MAX_CHUNK_TOKENS} --max-tree-rows {DEFAULT_MAX_TREE_ROWS}"
        yield flags, replace(request, max_num_rows=usual[0], max_num_asked=usual[1])
    request = replace(request, dtype="bfloat16")
    for quantization in ("int8", "int4"):
        if request.quantization is None:
            yield f"--dtype bfloat16 --quantization {quantization}", replace(request, quantization=quantization)
    if request.max_weight_bytes is None:
        yield "--offload (slower: weights are fetched for every pass)", replace(request, max_weight_bytes=1 << 28)
    least = replace(request, quantization="int4")
    fewer = _fewer_slots(spec, least, available_bytes, ranks)
    if fewer < request.num_slots:
        yield f"--dtype bfloat16 --quantization int4 --kv-slots {fewer}", replace(least, num_slots=fewer)


def available_memory_bytes(root: Path = Path("/")) -> int:
    """Memory that this machine, or the container's limit, still has."""
    lines = (root / "proc/meminfo").read_text().splitlines()
    values = {line.split(":")[0]: int(line.split()[1]) * 1024 for line in lines}
    available = values["MemAvailable"]
    limit, used = root / "sys/fs/cgroup/memory.max", root / "sys/fs/cgroup/memory.current"
    if limit.is_file() and used.is_file() and (text := limit.read_text().strip()) != "max":
        # File pages count as used there, and are given back when memory is wanted.
        files = [line for line in _lines(root / "sys/fs/cgroup/memory.stat") if line.startswith("inactive_file ")]
        reclaimable = int(files[0].split()[1]) if files else 0
        available = min(available, int(text) - int(used.read_text()) + reclaimable)
    return available


def _lines(path: Path) -> list[str]:
    return path.read_text().splitlines() if path.is_file() else []

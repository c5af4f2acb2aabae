"""What the settings of an LLM service ask of a machine for its model: made of them once, by the service itself or before it is started.

Imports no torch.
"""

from __future__ import annotations

from dataclasses import dataclass

from specgrove.models.decoder.parallel_layout import ParallelLayout
from specgrove.settings.rules import ValueOf


@dataclass(frozen=True, slots=True)
class Offload:
    """Weights that don't stay in memory. ``max_weight_bytes`` is of each rank; ``None``: what is available but ``reserve_bytes``."""

    max_weight_bytes: int | None
    reserve_bytes: int


@dataclass(frozen=True, slots=True)
class ModelDemand:
    """What one service asks for; memory is in bytes of each of its ranks."""

    dtype: str
    device: str
    """``auto``, ``cpu`` or ``cuda``."""
    gpu_kernels: str
    """``auto``, ``off`` or ``require``."""
    quantization: str
    """``none``, ``int8`` or ``int4``; the model may be quantised already."""
    layout: ParallelLayout
    num_slots: int
    kv_memory_bytes: int | None
    """Memory for KV slots; instead of ``num_slots``."""
    memory_per_rank_bytes: int | None
    """All that a rank may take; KV slots get what is left. Instead of ``num_slots``."""
    offload: Offload | None
    max_model_len: int | None
    """In tokens; ``None``: what the model allows."""
    max_num_chunk_tokens: int
    max_num_tree_rows: int

    @property
    def max_num_rows(self) -> int:
        """The most rows of one pass."""
        return self.max_num_chunk_tokens + self.max_num_tree_rows

    @classmethod
    def of(cls, value_of: ValueOf) -> ModelDemand:
        """From the values of the LLM service's settings, by their names."""
        return cls(
            dtype=value_of("dtype"),
            device=value_of("device"),
            gpu_kernels=value_of("gpu-kernels"),
            quantization=value_of("quantization"),
            layout=_layout(value_of),
            num_slots=value_of("kv-slots"),
            kv_memory_bytes=value_of("kv-memory"),
            memory_per_rank_bytes=value_of("memory-per-gpu"),
            offload=_offload(value_of),
            max_model_len=value_of("max-model-len"),
            max_num_chunk_tokens=value_of("max-chunk-tokens"),
            max_num_tree_rows=value_of("max-tree-rows"),
        )


def _offload(value_of: ValueOf) -> Offload | None:
    if value_of("max-weight-memory") is None and not value_of("offload"):
        return None
    return Offload(value_of("max-weight-memory"), value_of("offload-reserve-bytes"))


def _layout(value_of: ValueOf) -> ParallelLayout:
    """``pipeline-parallel`` is a number of stages, or the numbers of their layers."""
    tensor_size, numbers = value_of("tensor-parallel"), value_of("pipeline-parallel")
    if len(numbers) == 1:
        return ParallelLayout(tensor_size, numbers[0])
    return ParallelLayout(tensor_size, len(numbers), numbers)

"""The LLM service's settings: frozen, made once in ``__main__``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from specgrove.models.parallel_layout import ParallelLayout


@dataclass(frozen=True, slots=True)
class VerifierConfig:
    """What the engine needs."""

    max_model_len: int
    # Rows of one forward pass that prompts may fill; trees come first and are not bounded by it.
    max_num_chunk_tokens: int = 256
    max_num_tree_nodes: int = 256
    session_ttl_s: float = 300.0


@dataclass(frozen=True, slots=True)
class LlmServiceConfig:
    """All of it."""

    address: str
    model: str
    dtype: str
    cache_dir: Path
    layout: ParallelLayout
    num_threads: int
    num_slots: int
    max_model_len: int | None
    max_num_chunk_tokens: int
    session_ttl_s: float
    drain_timeout_s: float

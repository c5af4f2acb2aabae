"""The LLM service's settings: frozen, made once in ``__main__``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from specgrove.config import MAX_NUM_TREE_NODES
from specgrove.models.planning.demand import ModelDemand
from specgrove.serving.tls import TlsFiles
from specgrove.telemetry.tracing import NOWHERE, TracingConfig
from specgrove.v1 import llm_pb2

SERVICE_NAME = llm_pb2.DESCRIPTOR.services_by_name["LlmService"].full_name


@dataclass(frozen=True, slots=True)
class VerifierConfig:
    """What the engine needs."""

    max_model_len: int
    max_num_chunk_tokens: int = 256
    """Rows of one forward pass that prompts may fill."""
    max_num_tree_rows: int = 512
    """Rows of one forward pass that the trees of all sessions may fill; at least one tree's."""
    max_num_tree_nodes: int = MAX_NUM_TREE_NODES
    session_ttl_s: float = 300.0
    stream_interval_s: float = 0.0
    """Least time between two verdicts of steps that the verifier makes by itself; tokens in between go out together."""
    has_prefix_cache: bool = True
    """Whether KV slots are kept and shared by what tokens they are of. Then a runner's slots must be one engine's alone."""
    num_walk_threads: int = 1
    """That make choices by logits, for many sessions side by side."""


@dataclass(frozen=True, slots=True)
class LlmServiceConfig:
    """All of it."""

    address: str
    model: str
    demand: ModelDemand
    cache_dir: Path
    num_threads: int
    isa: str | None
    """Instructions of the kernels for CPUs; ``None``: the best that there are."""
    session_ttl_s: float
    stream_interval_s: float
    pass_timeout_s: float | None
    """After which a forward pass is taken to hang; ``None``: by the model's size."""
    drain_timeout_s: float
    log_level: str
    log_format: str
    tracing: TracingConfig = NOWHERE
    metrics_address: str | None = None
    has_prefix_cache: bool = True
    has_vllm_metrics: bool = False
    health_address: str | None = None
    tls: TlsFiles | None = None
    """``None``: in clear."""

    @property
    def addresses(self) -> tuple[str, ...]:
        """All that it listens at."""
        return tuple(filter(None, (self.address, self.metrics_address, self.health_address)))


def is_rank(environment: Mapping[str, str]) -> bool:
    """Whether ``torchrun`` started this process."""
    return "RANK" in environment and "WORLD_SIZE" in environment

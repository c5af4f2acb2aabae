"""The SSM service's settings: frozen, made once in ``__main__``. ``rule_of`` is how an ``--ssm`` drafts."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from specgrove.config import MAX_NUM_TREE_NODES, MAX_TREE_DEPTH
from specgrove.models.planning.ssm_fitting import SsmDemand
from specgrove.serving.tls import TlsFiles
from specgrove.settings.ssm_specs import SsmSpec
from specgrove.telemetry.tracing import NOWHERE, TracingConfig
from specgrove.v1 import ssm_pb2
from ssm_service.draft_tree import Beam, Expansion

SERVICE_NAME = ssm_pb2.DESCRIPTOR.services_by_name["SsmService"].full_name


@dataclass(frozen=True, slots=True)
class PoolConfig:
    """What the engine needs."""

    session_ttl_s: float = 300.0
    max_num_nodes: int = MAX_NUM_TREE_NODES - 1
    """Of one tree, root not counted."""
    max_depth: int = MAX_TREE_DEPTH


@dataclass(frozen=True, slots=True)
class SsmServiceConfig:
    """All of it."""

    address: str
    ssms: tuple[SsmSpec, ...]
    demand: SsmDemand
    cache_dir: Path
    num_threads: int
    session_ttl_s: float
    pass_timeout_s: float
    """After which a pass is taken to hang."""
    drain_timeout_s: float
    log_level: str
    log_format: str
    llm_model: str | None = None
    """Whose hidden states some SSMs read, as its own service is told; ``None``: there are no such SSMs."""
    tracing: TracingConfig = NOWHERE
    has_prefix_cache: bool = True
    draft_ahead: str = "auto"
    """One of ``DRAFT_AHEAD``."""
    metrics_address: str | None = None
    health_address: str | None = None
    tls: TlsFiles | None = None
    """``None``: in clear."""

    @property
    def addresses(self) -> tuple[str, ...]:
        """All that it listens at."""
        return tuple(filter(None, (self.address, self.metrics_address, self.health_address)))


def rule_of(spec: SsmSpec) -> Beam | Expansion | None:
    """How its trees grow; ``None`` for those without weights."""
    if spec.model is None:
        return None
    if spec.mode == "beam":
        return Beam() if spec.width is None else Beam(spec.width)
    return Expansion() if spec.expansion is None else Expansion(spec.expansion)

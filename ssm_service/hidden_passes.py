"""What a ``HiddenStateSsm`` runs in one step: it fills this where the step begins, and takes what was found where it ends."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch

from specgrove.runtime.pass_builder import PassBuilder
from ssm_service.drafts import DraftRows, EndedDraft
from ssm_service.growth import GrownRows
from ssm_service.nodes import Proposals


@dataclass(slots=True)
class RowsToRun:
    """One of the two passes: its rows, and what is fed to them."""

    builder: PassBuilder = field(default_factory=PassBuilder)
    fed: list[torch.Tensor] = field(default_factory=list)
    parts: list[DraftRows] = field(default_factory=list)
    grown: list[GrownRows] = field(default_factory=list)


@dataclass(slots=True)
class HiddenPasses:
    """Passes over true pairs and over drafted ones, side by side; and the drafts that ended when they were begun."""

    extend: RowsToRun = field(default_factory=RowsToRun)
    level: RowsToRun = field(default_factory=RowsToRun)
    alone: list[tuple[DraftRows, Proposals | None]] = field(default_factory=list)
    """Drafts whose pairs were read and levels computed by one call, with what it proposes below the root."""
    finished: list[EndedDraft] = field(default_factory=list)

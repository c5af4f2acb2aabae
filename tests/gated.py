"""Engines with a gate before their steps: while it is shut items stay under way, so that tests can act in the middle of one."""

from __future__ import annotations

from llm_service.verifier import VerifierEngine
from ssm_service.pool import DrafterPool


class GatedEngine(VerifierEngine):
    """A verifier's."""

    is_open = True

    def has_work(self) -> bool:
        return self.is_open and super().has_work()


class GatedPool(DrafterPool):
    """A drafter's."""

    is_open = True

    def has_work(self) -> bool:
        return self.is_open and super().has_work()

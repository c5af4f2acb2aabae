"""What several tests of manifests take for granted."""

from __future__ import annotations

import pytest

from specgrove.settings import rules


@pytest.fixture
def on_a_node_with_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where pods that ask for GPUs run: settings are checked there."""
    monkeypatch.setattr(rules, "may_have_gpu", lambda: True)

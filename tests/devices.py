"""The devices that device-neutral code is tested on: the CPU everywhere, a GPU by the tests marked ``gpu``."""

from __future__ import annotations

import pytest

DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]

"""What light processes import: the router and clients must start without torch. The contracts are in pyproject.toml (import-linter)."""

from __future__ import annotations

import subprocess
import sys

import pytest


@pytest.mark.parametrize("module", ["router.__main__", "specgrove.client", "specgrove.serve", "specgrove.speculation"])
def test_no_torch_is_imported(module: str) -> None:
    program = f"import sys, {module}; sys.exit(' '.join({{'torch', 'transformers'}} & set(sys.modules)) or 0)"
    subprocess.run([sys.executable, "-c", program], check=True)

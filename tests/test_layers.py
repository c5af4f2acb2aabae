"""What light processes import: the router and clients must start without torch.

The one list of their modules is import-linter's contract in pyproject.toml, which reads the sources. Here they are imported, for what
sources don't show: imports by name, and those of other packages.
"""

from __future__ import annotations

import subprocess
import sys
import tomllib
from pathlib import Path

PROGRAM = """
import importlib, pkgutil, sys

forbidden, names = (text.split(",") for text in sys.argv[1:])
while names:
    name = names.pop(0)
    module = importlib.import_module(name)
    names += [part.name for part in pkgutil.iter_modules(getattr(module, "__path__", ()), f"{name}.")]
    if found := set(forbidden) & set(sys.modules):
        sys.exit(f"{name} imports {' and '.join(found)}")
"""


def test_no_torch_is_imported() -> None:
    configured = tomllib.loads((Path(__file__).parent.parent / "pyproject.toml").read_text())
    contracts = configured["tool"]["importlinter"]["contracts"]
    (contract,) = [contract for contract in contracts if contract["type"] == "forbidden"]
    assert "router" in contract["source_modules"]
    assert "torch" in contract["forbidden_modules"]
    arguments = [",".join(contract[key]) for key in ("forbidden_modules", "source_modules")]
    ended = subprocess.run([sys.executable, "-c", PROGRAM, *arguments], capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr

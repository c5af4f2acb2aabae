"""The Python example starts the suite by itself and shows who drafted what."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent


def test_python_example(demo_llm: Path) -> None:
    ended = subprocess.run(
        [sys.executable, "examples/python_api.py"],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
    )
    assert ended.returncode == 0, ended.stderr
    lines = ended.stdout.splitlines()
    assert lines[-1].endswith("tokens per verifier step")
    shown = [line for line in lines if line.startswith(("'", '"'))]
    assert 1 < len(shown) <= 41
    assert any(line.endswith(" verifier") for line in shown)

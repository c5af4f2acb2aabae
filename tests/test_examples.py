"""The gRPC example runs as it stands, and the README shows exactly that."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from tests.fake_router import running_router

ROOT = Path(__file__).parent.parent


def test_grpc_example_streams(tmp_path: Path) -> None:
    with running_router(tmp_path) as (fake, address):
        ended = subprocess.run(
            [sys.executable, "examples/stream.py", address],
            cwd=ROOT,
            env=os.environ | {"PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            check=True,
        )
    assert ended.stdout == "The quick brown fox\n"
    assert fake.requests[0].chat.messages[0].content == "Why is the sky blue?"


def test_readme_shows_the_example() -> None:
    example = (ROOT / "examples" / "stream.py").read_text().partition('"""\n\n')[2]
    assert f"```python\n{example}```" in (ROOT / "README.md").read_text()

"""A temporary folder whose owner was killed, for tests of who removes it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

_OWNER = """
import os, signal, sys
from pathlib import Path
from specgrove.machine.owned_folders import temporary_folder
with temporary_folder(sys.argv[1]) as folder:
    (folder / "left").write_text("")
    os.kill(os.getpid(), signal.SIGKILL)
"""


def leave_folder_of_killed(parent: Path, prefix: str) -> Path:
    """The folder, in ``parent``."""
    environment = os.environ | {"TMPDIR": str(parent)}
    ended = subprocess.run([sys.executable, "-c", _OWNER, prefix], env=environment, check=False)
    assert ended.returncode == -signal.SIGKILL
    (left,) = [path for path in parent.iterdir() if path.is_dir()]
    return left

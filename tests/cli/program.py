"""The ``specgrove`` command as a process of its own, without what it says only where something takes long."""

from __future__ import annotations

import shlex
import sys

_PROGRAM = """
import math, sys, threading
from specgrove.cli import main, progress, streaming
streaming.NOTICE_AFTER_S = threading.TIMEOUT_MAX
progress.SAME_WORK_INTERVAL_S = math.inf
sys.exit(main())
"""
SPECGROVE = (sys.executable, "-c", _PROGRAM)


def typed() -> str:
    """``SPECGROVE`` for a shell."""
    return shlex.join(SPECGROVE)

"""The ``specgrove`` command as a process of its own, without what it says only where something takes long."""

from __future__ import annotations

import shlex
import sys

_PROGRAM = """
import sys, threading
from specgrove.cli import main, streaming
streaming.NOTICE_AFTER_S = threading.TIMEOUT_MAX
sys.exit(main())
"""
SPECGROVE = (sys.executable, "-c", _PROGRAM)


def typed() -> str:
    """``SPECGROVE`` for a shell."""
    return shlex.join(SPECGROVE)

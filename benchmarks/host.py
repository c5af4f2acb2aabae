"""The machine and the software that a benchmark ran on. Used by all that write figures; needs no package but torch."""

from __future__ import annotations

import os
import platform
import subprocess

import torch

from specgrove.machine.host import processor_name

ON_CPU = ("--device", "cpu")  # arguments of both model services


def conditions() -> dict[str, str]:
    """What the figures were measured on."""
    return {
        "cpu": processor_name(),
        "cores": f"{len(os.sched_getaffinity(0))} cores",
        "python": f"Python {platform.python_version()}",
        "torch": f"torch {torch.__version__}",
        "commit": f"commit {_commit()}",
    }


def _commit() -> str:
    """Where there is no git, or no history, ``SPECGROVE_COMMIT`` tells."""
    command = ["git", "rev-parse", "--short", "HEAD"]
    try:
        found = subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()
    except OSError:
        found = ""
    return found or os.environ.get("SPECGROVE_COMMIT", "unknown")

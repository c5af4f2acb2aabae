"""``python -m tests.k8s.on_host NAMESPACE MODULE ARGS...`` runs ``python -m MODULE ARGS...`` in a network namespace, in its own place.

So a supervisor's child keeps its process id, and goes on to die with its parent. Used by ``tests.k8s.two_hosts``.
"""

from __future__ import annotations

import os
import sys


def main(namespace: str, *command: str) -> None:
    """Never returns."""
    os.execvp("ip", ["ip", "netns", "exec", namespace, sys.executable, "-m", *command])


if __name__ == "__main__":
    main(*sys.argv[1:])

"""A watch that ends the process when it is given no sign: native, since a call that hangs may hold the interpreter. Free of torch.

``TurnWatch(timeout_s, signal)`` begins to watch; ``beat`` gives a sign, ``stop`` ends the watch. Without a sign for ``timeout_s`` the
process gets the signal, and ends with code 1. Time counts only while the process runs.
Raises ``ValueError`` unless 0 < ``timeout_s`` <= 1e9.
"""

from __future__ import annotations

from specgrove.kernels._native import TurnWatch

__all__ = ["TurnWatch"]

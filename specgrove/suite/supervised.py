"""``python -m specgrove.suite.supervised PARENT_PID MODULE ARGS...`` runs ``python -m MODULE ARGS...`` that dies with its parent.

Started so by ``specgrove.suite.supervisor``, the ranks' launcher and ``router.text_process``. The kernel kills this process when the
thread that started it ends, however that happens.
"""

from __future__ import annotations

import runpy
import sys

from specgrove.machine.parent import die_with


def main(argv: list[str]) -> None:
    """Never returns normally when the module calls ``sys.exit``."""
    parent_pid, module = int(argv[0]), argv[1]
    die_with(parent_pid)
    sys.argv = [module, *argv[2:]]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main(sys.argv[1:])

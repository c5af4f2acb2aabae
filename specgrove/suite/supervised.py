"""``python -m specgrove.suite.supervised PARENT_PID MODULE ARGS...`` runs ``python -m MODULE ARGS...`` that dies with its parent.

Started so by ``specgrove.suite.supervisor``, the ranks' launcher and ``router.text_process``. The kernel kills this process when the
thread that started it ends, however that happens. Of SpecGrove's own packages those are run that lie beside this one: ``router`` is a
name that others have, too, and theirs may come first on Python's path.
"""

from __future__ import annotations

import importlib.util
import runpy
import sys
from pathlib import Path

import specgrove
from specgrove.machine.parent import die_with


def main(argv: list[str]) -> None:
    """Never returns normally when the module calls ``sys.exit``."""
    parent_pid, module = int(argv[0]), argv[1]
    die_with(parent_pid)
    _import_own(module.partition(".")[0], Path(specgrove.__file__).parent.parent)
    sys.argv = [module, *argv[2:]]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


def _import_own(name: str, folder: Path) -> None:
    """Imports the package of this name that lies in ``folder``, if there is one."""
    place = folder / name / "__init__.py"
    if name in sys.modules or not place.is_file():
        return
    spec = importlib.util.spec_from_file_location(name, place, submodule_search_locations=[str(place.parent)])
    assert spec is not None
    assert spec.loader is not None
    sys.modules[name] = package = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(package)


if __name__ == "__main__":
    main(sys.argv[1:])

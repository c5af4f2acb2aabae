"""``python tools/pytest_with_native.py MODULE ARGUMENTS...``: pytest on another build of the kernels, as one with sanitizers.

``MODULE`` is its ``_native.*.so``. Called by the Makefile. Only the tests' own process runs it: those that it starts import the build
that is installed.
"""

from __future__ import annotations

import importlib.util
import sys

import pytest

NAME = "specgrove.kernels._native"


def load(path: str) -> None:
    """Puts the module where ``specgrove.kernels`` looks for it."""
    spec = importlib.util.spec_from_file_location(NAME, path)
    if spec is None or spec.loader is None:
        sys.exit(f"{path} is no native module")
    module = importlib.util.module_from_spec(spec)
    sys.modules[NAME] = module
    spec.loader.exec_module(module)


if __name__ == "__main__":
    load(sys.argv[1])
    sys.exit(pytest.main(sys.argv[2:]))

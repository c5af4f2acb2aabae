"""Programs run as kernels' tests do: on each instruction path, with two threads."""

from tests.kernels.conftest import isa, two_threads

__all__ = ["isa", "two_threads"]

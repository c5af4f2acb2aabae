"""Programs run as kernels' tests do: the CPU's on each instruction path with two threads, those for GPUs in the emulator and on a GPU."""

from tests.kernels.conftest import isa, two_threads
from tests.kernels.cuda.conftest import device

__all__ = ["device", "isa", "two_threads"]

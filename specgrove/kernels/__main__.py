"""``python -m specgrove.kernels``: which kernels this machine runs, and why."""

from __future__ import annotations

from specgrove.kernels import _native
from specgrove.kernels.checks import NATIVE_DTYPES
from specgrove.kernels.in_use import REASONS, gpu_lines
from specgrove.kernels.threads import amx_refusal, get_isa, get_num_threads
from specgrove.machine.cpus import available_cpus


def main() -> None:
    """Prints one line per fact."""
    print(f"build         {_native.build_info()}")
    print(f"instructions  {get_isa()}: {REASONS[get_isa()]}")
    if (refusal := amx_refusal()) is not None:
        print(f"AMX           not in use: {refusal}")
    print(f"threads       {get_num_threads()} until a command sets more; {available_cpus()} CPUs")
    print(f"dtypes        {', '.join(str(dtype).removeprefix('torch.') for dtype in NATIVE_DTYPES)}")
    for line in gpu_lines():
        print(line)


if __name__ == "__main__":
    main()

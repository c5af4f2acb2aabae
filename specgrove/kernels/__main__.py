"""``python -m specgrove.kernels``: which kernels this machine runs, and why."""

from __future__ import annotations

from specgrove.cpus import available_cpus
from specgrove.kernels import _native
from specgrove.kernels.checks import NATIVE_DTYPES
from specgrove.kernels.threads import get_isa, get_num_threads

REASONS = {
    "avx512": "the processor has AVX-512 with BF16 and VNNI",
    "avx2": "the processor has AVX2, but no AVX-512 with BF16 and VNNI",
    "plain": "the processor has neither AVX-512 with BF16 and VNNI nor AVX2",
}


def main() -> None:
    """Prints one line per fact."""
    print(f"build         {_native.build_info()}")
    print(f"instructions  {get_isa()}: {REASONS[get_isa()]}")
    print(f"threads       {get_num_threads()} until a command sets more; {available_cpus()} CPUs")
    print(f"dtypes        {', '.join(str(dtype).removeprefix('torch.') for dtype in NATIVE_DTYPES)}")


if __name__ == "__main__":
    main()

"""How many threads the kernels of this process use, and which instructions. Set once, in ``__main__``."""

from __future__ import annotations

from specgrove.kernels import _native


def set_num_threads(num_threads: int) -> None:
    """Threads of all kernels, the calling one counted. Raises ``ValueError`` below 1."""
    if num_threads < 1:
        raise ValueError(f"num_threads must be at least 1, got {num_threads}")
    _native.set_num_threads(num_threads)


def get_num_threads() -> int:
    """As set, 1 at first."""
    return _native.get_num_threads()


def get_isa() -> str:
    """``amx``, ``avx512``, ``avx2`` or ``plain``; ``amx_twin`` where a test has asked for it."""
    return _native.get_isa()


def set_isa(isa: str) -> None:
    """The kernels' path. Packed weights serve all. Raises ``ValueError`` for what can't run here.

    ``amx_twin`` runs anywhere: the kernels of ``amx``, with its tiles in plain C++ to the same bits.
    """
    _native.set_isa(isa)


def check_isa(isa: str) -> None:
    """Raises ``ValueError`` where ``set_isa`` would, in the words of ``--instruction-set``."""
    before = get_isa()
    try:
        set_isa(isa)
    except ValueError as error:
        raise ValueError(f"--instruction-set {isa}: {error}; its best is {before}") from error
    set_isa(before)


def amx_refusal() -> str | None:
    """Why the system does not let this process use the AMX that the processor has, if that is so."""
    return _native.amx_refusal() or None

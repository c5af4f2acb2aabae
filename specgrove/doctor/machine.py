"""The machine and what is installed on it: processor, kernels and why these, memory and how fast it is read, GPUs, packages, folders."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import torch

from specgrove.doctor.findings import Finding, error, ok, warning
from specgrove.kernels.bandwidth import BUFFER_BYTES, ReadBandwidth
from specgrove.kernels.in_use import REASONS, gpu_lines
from specgrove.kernels.threads import amx_refusal, get_isa
from specgrove.machine.cpus import available_cpus
from specgrove.machine.gpus import may_have_gpu
from specgrove.machine.host import processor_name
from specgrove.models.planning.memory_plan import available_memory_bytes, gibibytes
from specgrove.settings import SuiteSettings
from specgrove.suite.start_checks import crowding_of

PACKAGES = ("torch", "grpcio", "protobuf", "tokenizers", "safetensors", "huggingface_hub", "fastapi", "uvicorn")
_LEAST_DISK_BYTES = 2 << 30
# Beside the buffer that is read.
_LEAST_MEMORY_BYTES = 1 << 30


def processor() -> Finding:
    """Its name, and how much of it this process may use."""
    num_cpus, num_all = available_cpus(), os.cpu_count() or 1
    name = processor_name() or platform.machine()
    limit = "" if num_cpus == num_all else f" of {num_all}, by affinity or a container's quota"
    facts = {"name": name, "num_cpus": num_cpus, "num_all_cpus": num_all, "machine": platform.machine()}
    return ok("processor", f"{name}, {num_cpus} CPU{'s' if num_cpus > 1 else ''}{limit}", **facts)


def threads(settings: SuiteSettings) -> Iterator[Finding]:
    """A warning where a suite with these settings has too many threads."""
    if (crowding := crowding_of(settings)) is not None:
        yield warning("threads", crowding)


def kernels() -> Iterator[Finding]:
    """Which instructions they use, and why not better ones."""
    isa = get_isa()
    text = f"{isa}: {REASONS[isa]}"
    if isa == "plain":
        yield warning("kernels", f"{text}; steps take several times longer", isa=isa)
    else:
        yield ok("kernels", text, isa=isa)
    if (refusal := amx_refusal()) is not None:
        yield warning("kernels", f"the processor's AMX is not in use: {refusal}", amx_refusal=refusal)


def memory(*, is_measured: bool) -> Finding:
    """How much there is, and how fast it is read: a step of decoding reads all weights once."""
    available = available_memory_bytes()
    facts: dict[str, object] = {"available_bytes": available}
    text = f"{gibibytes(available)} available"
    if available < _LEAST_MEMORY_BYTES:
        return warning("memory", f"{text}: too little for all but tiny models", **facts)
    if not is_measured or available < BUFFER_BYTES + _LEAST_MEMORY_BYTES:
        return ok("memory", text, **facts)
    gb_per_s = ReadBandwidth(available_cpus()).measure()
    facts["read_gb_per_s"] = round(gb_per_s, 1)
    steps = f"weights of 1 GB could be read {gb_per_s:.0f} times a second, for a step each"
    return ok("memory", f"{text}, read at {gb_per_s:.0f} GB/s: {steps}", **facts)


def gpus() -> Iterator[Finding]:
    """Those that torch finds, and those that it does not."""
    if not torch.cuda.is_available():
        if may_have_gpu():
            text = f"a GPU is there, and torch {torch.__version__} can't use it: install its build for CUDA (docs/operations.md)"
            yield warning("GPU", text)
        else:
            yield ok("GPU", "none; models run on the CPU")
        return
    for line in gpu_lines():
        line = line.removeprefix("GPU").removeprefix("in use").strip()
        composed = line.startswith("ops composed")
        yield warning("GPU", line) if composed else ok("GPU", line)


def versions() -> Iterator[Finding]:
    """SpecGrove's own, Python's and those of the packages that matter."""
    found, missing = {}, []
    for package in PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            missing.append(package)
    versions = {"python": platform.python_version(), **found}
    yield ok("versions", ", ".join(f"{name} {version}" for name, version in versions.items()), **versions)
    if missing:
        yield error("versions", f"not installed: {', '.join(missing)}; `make` installs all of it", missing=missing)


def folders(cache_dir: Path) -> Iterator[Finding]:
    """Where models are kept, and where sockets lie."""
    yield _writable("cache folder", cache_dir)
    yield _writable("temporary folder", Path(tempfile.gettempdir()))


def _writable(area: str, folder: Path) -> Finding:
    place = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    if not place.is_dir():
        return error(area, f"{place} is no folder", path=str(folder))
    if not os.access(place, os.W_OK | os.X_OK):
        return error(area, f"{place} can't be written by this user; give another by --cache-dir", path=str(folder))
    free = shutil.disk_usage(place).free
    text = f"{folder}{'' if folder.exists() else ', made when it is needed'}, {gibibytes(free)} free"
    facts = {"path": str(folder), "free_bytes": free}
    return warning(area, f"{text}: little for models", **facts) if free < _LEAST_DISK_BYTES else ok(area, text, **facts)

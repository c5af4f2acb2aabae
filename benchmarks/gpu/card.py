"""The card under the benchmark: a clock on it, its copy bandwidth and matrix rate, and the conditions of the run.

Every part of ``benchmarks.gpu`` compares with these, measured in the same run. On the CPU the clock is the wall's, and times mean nothing.
"""

from __future__ import annotations

import datetime
import statistics
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

from benchmarks.host import conditions as host_conditions
from specgrove.kernels.cuda.backend import kernels_for

EMULATOR_NOTE = "the emulator on a CPU: times mean nothing"
_SMI_FIELDS = ("driver_version", "clocks.sm", "clocks.mem", "clocks.max.sm", "clocks.max.mem", "power.limit")
_MATRIX_SIZE = 8192
_NUMS_FLUSHES = (1, 4, 16)  # the first that gives the host enough time


class Clock:
    """Times calls on a device; on the CPU by the wall."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        # Between two calls the cache is filled with other numbers, as other layers' weights pass through it in a decoder; by reading, for
        # what was written would have to be written back.
        self._flush = torch.zeros(1 << 28 if device.type == "cuda" else 1, device=device)

    def ms(self, run: Callable[[], object]) -> float:
        """Milliseconds of one call."""
        if self._device.type != "cuda":
            started_s = time.perf_counter()
            run()
            return (time.perf_counter() - started_s) * 1e3
        for num_flushes in _NUMS_FLUSHES:
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
            for _ in range(num_flushes):
                self._flush.sum()
            start.record()
            run()
            # The device was done with the flush before the host had launched all: it has waited.
            is_late = start.query()  # type: ignore[no-untyped-call]
            end.record()
            end.synchronize()
            if not is_late:
                break
        return float(start.elapsed_time(end))


@dataclass(frozen=True, slots=True)
class Card:
    """A device, and what it does at best."""

    device: torch.device
    clock: Clock
    bytes_per_ms: float
    """Read and written, by copies of a large tensor."""
    flops_per_ms: float
    """Of products of large float16 matrices."""
    is_full: bool
    """Models and batches have their real sizes. In the emulator they never have."""

    @classmethod
    def measured(cls, device: torch.device, *, is_tiny: bool = False) -> Card:
        """Warms the card up too."""
        clock, is_full = Clock(device), device.type == "cuda" and not is_tiny
        return cls(device, clock, _copy_bytes_per_ms(clock, device), _matrix_flops_per_ms(clock, device), is_full)

    @property
    def num_turns(self) -> int:
        """In which contestants take turns."""
        return 21 if self.is_full else 1

    def copy_ms(self, num_bytes: int) -> float:
        """What so many bytes take at the copy bandwidth."""
        return num_bytes / self.bytes_per_ms


def _copy_bytes_per_ms(clock: Clock, device: torch.device) -> float:
    source = torch.empty(1 << 30 if device.type == "cuda" else 1 << 16, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    return 2 * source.nbytes / statistics.median(clock.ms(lambda: target.copy_(source)) for _ in range(9))


def _matrix_flops_per_ms(clock: Clock, device: torch.device) -> float:
    size = _MATRIX_SIZE if device.type == "cuda" else 64
    left, right = (torch.randn(size, size, dtype=torch.float16, device=device) for _ in range(2))
    out = torch.empty_like(left)
    times_ms = [clock.ms(lambda: torch.mm(left, right, out=out)) for _ in range(9)]
    return 2 * size**3 / statistics.median(times_ms[2:])


def conditions(card: Card) -> dict[str, str]:
    """What the figures were measured on, with this run's bandwidth and matrix rate."""
    host = host_conditions()
    facts = {
        "card": torch.cuda.get_device_name(card.device) if card.device.type == "cuda" else EMULATOR_NOTE,
        "kernels": str(kernels_for(card.device).architectures()),
        "torch": host["torch"],
        "CUDA": f"CUDA {torch.version.cuda}",
        "python": host["python"],
        "host": f"{host['cpu']}, {host['cores']}",
        "commit": host["commit"],
        "date": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "copy bandwidth": f"copies at {card.bytes_per_ms / 1e9:.3f} TB/s, bytes read and written",
        "matrix rate": f"float16 matrix products at {card.flops_per_ms / 1e9:.1f} TFLOP/s",
    }
    return facts | (_smi_facts() if card.device.type == "cuda" else {})


def _smi_facts() -> dict[str, str]:
    """Driver and clocks as nvidia-smi says right after the card was busy; nothing where it is missing."""
    uuid = f"GPU-{torch.cuda.get_device_properties(0).uuid}"
    command = ["nvidia-smi", "-i", uuid, f"--query-gpu={','.join(_SMI_FIELDS)}", "--format=csv,noheader"]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, check=True, timeout=20).stdout
    except (OSError, subprocess.SubprocessError):
        return {}
    values = [value.strip() for value in answer.splitlines()[0].split(",")]
    return {field: f"{field} {value}" for field, value in zip(_SMI_FIELDS, values, strict=False)}

"""A pass allocates nothing but its arguments and its answer: counted in a process whose allocator counts, not timed."""

from __future__ import annotations

import itertools
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.kernels.conftest import ISAS, can_run

# Whatever memory is asked for comes from one of these, that of ``operator new`` too; what they call is glibc's.
_COUNTER = """
#include <atomic>
#include <cerrno>
#include <cstddef>
static std::atomic<long> count{0};
extern "C" {
void* __libc_malloc(std::size_t); void* __libc_calloc(std::size_t, std::size_t);
void* __libc_realloc(void*, std::size_t); void* __libc_memalign(std::size_t, std::size_t);
void* malloc(std::size_t size) { ++count; return __libc_malloc(size); }
void* calloc(std::size_t number, std::size_t size) { ++count; return __libc_calloc(number, size); }
void* realloc(void* old, std::size_t size) { ++count; return __libc_realloc(old, size); }
void* memalign(std::size_t alignment, std::size_t size) { ++count; return __libc_memalign(alignment, size); }
void* aligned_alloc(std::size_t alignment, std::size_t size) { return memalign(alignment, size); }
int posix_memalign(void** out, std::size_t alignment, std::size_t size) {
  *out = memalign(alignment, size);
  return *out == nullptr ? ENOMEM : 0;
}
long num_allocations() { return count; }
}
"""

_PASSES = """
import ctypes, statistics, sys
import torch
from specgrove.kernels import threads
from specgrove.kernels.sampling import ChoiceParams, RowChoice
from specgrove.program.cpu import CpuProgram
from tests.program.tiny import caches, chain, program, weight

library, *isas = sys.argv[1:]
num_allocations = ctypes.CDLL(library).num_allocations
num_allocations.restype = ctypes.c_long
threads.set_num_threads(2)

choices = [RowChoice(ChoiceParams(temperature=temperature), 5) for temperature in (0.0, 0.8) * 8]
passes = [chain([7] * num_rows, choices[:num_rows]) for num_rows in (1, 3, 16)]
for isa in isas:
    threads.set_isa(isa)
    for kind in ("bfloat16", "int8", "int4"):
        for num_layers in (1, 4):
            executable = CpuProgram(program(kind=kind, num_layers=num_layers, vocab=weight(kind, torch.randn(200, 48))))
            own = caches(num_layers)
            for rows in passes:
                counts = []
                for _ in range(NUM_PASSES):
                    before = num_allocations()
                    executable.run(rows, own)
                    counts.append(num_allocations() - before)
                print(isa, kind, num_layers, rows.num_rows, statistics.multimode(counts)[0])
"""

# In the first ones buffers of threads grow to what a pass needs, whenever each thread gets its first share: most take no more.
_NUM_PASSES = 15
_MOST_A_PASS = 8  # the plan, choices on their way in, and the answer


@pytest.mark.skipif(shutil.which("c++") is None, reason="needs a C++ compiler")
def test_a_pass_allocates_no_more_for_more_layers(tmp_path: Path) -> None:
    """On every path that the processor has."""
    source, library = tmp_path / "counter.cpp", tmp_path / "counter.so"
    source.write_text(_COUNTER)
    subprocess.run(["c++", "-O1", "-shared", "-fPIC", "-std=c++17", str(source), "-o", str(library)], check=True)
    passes = _PASSES.replace("NUM_PASSES", str(_NUM_PASSES))
    isas = [isa for isa in ISAS if can_run(isa)]
    done = subprocess.run(
        [sys.executable, *("-S",) * sys.flags.no_site, "-c", passes, str(library), *isas],
        env=os.environ | {"LD_PRELOAD": str(library), "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    counts = {tuple(line.split()[:4]): int(line.split()[4]) for line in done.stdout.splitlines()}
    for isa, kind, num_rows in itertools.product(isas, ("bfloat16", "int8", "int4"), ("1", "3", "16")):
        assert 0 < counts[isa, kind, "1", num_rows] <= _MOST_A_PASS
        assert counts[isa, kind, "4", num_rows] == counts[isa, kind, "1", num_rows]

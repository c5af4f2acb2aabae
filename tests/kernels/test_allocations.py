"""A step allocates nothing but its arguments and its answer: counted in a process whose allocator counts, not timed."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

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

_STEPS = """
import ctypes, sys
from dataclasses import replace
import torch
from specgrove.kernels import threads
from specgrove.kernels.decoder_step import DecoderStep, StepNorm
from specgrove.kernels.model_step import ModelStep, StepEmbedding, StepHead
from specgrove.kernels.quantized_linear import QuantizedLinear, quantize
from specgrove.kernels.sampling import ChoiceParams, RowChoice
from tests.kernels.step_parts import HIDDEN, INNER, NUM_HEADS, HEAD_DIM, SHAPE, caches, layer
from tests.kernels.test_model_step import VOCAB_SIZE, chain, vocab_linear

library, isa = sys.argv[1:]
num_allocations = ctypes.CDLL(library).num_allocations
num_allocations.restype = ctypes.c_long
threads.set_isa(isa)
threads.set_num_threads(2)

def quantized(linear, kind):
    weight = torch.randn(linear.out_features, linear.in_features)
    return QuantizedLinear(quantize(weight, 8 if kind == "int8" else 4, None if kind == "int8" else 16))

def one_layer(kind):
    made = layer()
    if kind == "bfloat16":
        return made
    return replace(made, **{name: quantized(getattr(made, name), kind) for name in ("qkv", "out", "up", "down")})

choices = [RowChoice(ChoiceParams(temperature=temperature), 5) for temperature in (0.0, 0.8) * 8]
batches = [chain([7] * num_rows, choices[:num_rows]) for num_rows in (1, 3, 16)]
for kind in ("bfloat16", "int8", "int4"):
    for num_layers in (1, 4):
        step = ModelStep(
            StepEmbedding(torch.randn(VOCAB_SIZE, HIDDEN), 1.0, None, None),
            DecoderStep(SHAPE, [one_layer(kind) for _ in range(num_layers)]),
            StepHead(StepNorm(torch.ones(HIDDEN), None), None, vocab_linear(kind, torch.randn(200, HIDDEN))),
        )
        own = tuple(caches(num_layers)), tuple(caches(num_layers))
        for _ in range(100):  # buffers of all threads grow to what the largest batch needs
            for batch in batches:
                step(batch, *own)
        for batch in batches:
            before = num_allocations()
            for _ in range(NUM_STEPS):
                step(batch, *own)
            print(kind, num_layers, batch.num_rows, num_allocations() - before)
"""

_NUM_STEPS = 50
_MOST_A_STEP = 8  # the plan, choices on their way in, and the answer


@pytest.mark.skipif(shutil.which("c++") is None, reason="needs a C++ compiler")
def test_a_step_allocates_no_more_for_more_layers(isa: str, tmp_path: Path) -> None:
    source, library = tmp_path / "counter.cpp", tmp_path / "counter.so"
    source.write_text(_COUNTER)
    subprocess.run(["c++", "-O1", "-shared", "-fPIC", "-std=c++17", str(source), "-o", str(library)], check=True)
    steps = _STEPS.replace("NUM_STEPS", str(_NUM_STEPS))
    done = subprocess.run(
        [sys.executable, *("-S",) * sys.flags.no_site, "-c", steps, str(library), isa],
        env=os.environ | {"LD_PRELOAD": str(library), "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    counts = {tuple(line.split()[:3]): int(line.split()[3]) for line in done.stdout.splitlines()}
    for kind in ("bfloat16", "int8", "int4"):
        for num_rows in ("1", "3", "16"):
            assert 0 < counts[kind, "1", num_rows] <= _NUM_STEPS * _MOST_A_STEP
            assert counts[kind, "4", num_rows] == counts[kind, "1", num_rows]

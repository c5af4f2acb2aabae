"""Rows that nobody asks for: the last layer makes their keys and values, and nothing else runs for them.

What comes out is the same either way, so rows are counted where they go through a linear, and what attention must not read is
memory that can't be read.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from array import array
from dataclasses import replace

import pytest

from specgrove.kernels import _native
from specgrove.kernels.linear import NativeLinear
from specgrove.program.cpu import CpuProgram
from specgrove.program.op import Op
from specgrove.program.ops import Multiply
from specgrove.program.output_ops import Choose
from specgrove.program.program import Program
from tests.kernels.conftest import ISAS, can_run
from tests.program.tiny import FORMS, caches, chain, program


class Counted(NativeLinear):
    """Another linear, and how many rows went through it."""

    def __init__(self, other: NativeLinear) -> None:
        self.in_features, self.out_features, self._other = other.in_features, other.out_features, other
        self._counter = _native.CountedLinear(other.native)

    @property
    def native(self) -> _native.AnyLinear:
        return self._counter

    @property
    def num_rows(self) -> int:
        return self._counter.num_rows


def counted(plain: Program) -> tuple[Program, list[Counted]]:
    """The program with its linears counted, and these in the order of their use."""
    linears: list[Counted] = []

    def counting(op: Op) -> Op:
        if not isinstance(op, Multiply | Choose):
            return op
        linear = op.linear if isinstance(op, Multiply) else op.vocab
        assert isinstance(linear, NativeLinear)
        linears.append(Counted(linear))
        return replace(op, linear=linears[-1]) if isinstance(op, Multiply) else replace(op, vocab=linears[-1])

    return replace(plain, ops=tuple(map(counting, plain.ops))), linears


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("asked", [[], [8], [0], [2, 3, 7], list(range(9))])
def test_no_linear_behind_the_last_keys_takes_them(form: str, asked: list[int]) -> None:
    counting, linears = counted(program(form))
    rows = replace(chain(list(range(1, 10)), []), asked_rows=array("q", asked), choices=[None] * len(asked))
    CpuProgram(counting).run(rows, caches())
    first, last, vocab = linears[:4], linears[4:8], linears[8:]
    assert [linear.num_rows for linear in first] == [9] * 4
    assert [linear.num_rows for linear in last] == [9] + [len(asked)] * 3  # of the first one, qkv, come keys and values
    assert [linear.num_rows for linear in vocab] == [len(asked)]


# Two sequences; the second's context lies in slots that the last layer must not read unless one of its rows is asked for something.
_GUARDED = """
import ctypes, mmap, os, sys
from array import array
from dataclasses import replace
import torch
from specgrove.kernels import threads
from specgrove.program.backend import KvCaches
from specgrove.program.cpu import CpuProgram
from tests.program.tiny import HEAD_DIM, NUM_KV_HEADS, chain, program

def run(isa, asked):
    threads.set_isa(isa)
    slot_bytes = 2 * NUM_KV_HEADS * HEAD_DIM
    num_slots, first_shut = 2 * mmap.PAGESIZE // slot_bytes, -(-mmap.PAGESIZE // slot_bytes)
    memory = mmap.mmap(-1, 2 * mmap.PAGESIZE)
    keys = torch.frombuffer(memory, dtype=torch.bfloat16, count=num_slots * slot_bytes // 2).view(num_slots, NUM_KV_HEADS, HEAD_DIM)
    open_caches = [torch.zeros(num_slots, NUM_KV_HEADS, HEAD_DIM, dtype=torch.bfloat16) for _ in range(3)]
    rows = replace(
        chain([1, 2, 3, 4], [None]),
        context_slots=array("i", [0, 1, first_shut, first_shut + 1, 2, 3]),
        context_offsets=array("i", [0, 2, 6]),
        tree_offsets=array("i", [0, 0, 0]),
        row_seq=array("i", [0, 0, 1, 1]),
        row_context_len=array("i", [1, 2, 3, 4]),
        asked_rows=array("q", [asked]),
    )
    executable = CpuProgram(program())
    shut = ctypes.c_void_p(keys.data_ptr() + mmap.PAGESIZE)
    assert ctypes.CDLL(None).mprotect(shut, ctypes.c_size_t(mmap.PAGESIZE), 0) == 0
    os.write(1, b"begun ")
    executable.run(rows, KvCaches((open_caches[0], keys), tuple(open_caches[1:])))
    os.write(1, b"done ")

for isa in sys.argv[1:]:
    for asked in (1, 3):
        os.write(1, f"\\n{isa} {asked} ".encode())
        pid = os.fork()
        if pid == 0:
            run(isa, asked)
            os._exit(0)
        os.write(1, str(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])).encode())
"""


def test_attention_reads_no_keys_for_them() -> None:
    """On every path that the processor has; a row that is asked for something reads them, and dies of it."""
    isas = [isa for isa in ISAS if can_run(isa)]
    done = subprocess.run(
        [sys.executable, *("-S",) * sys.flags.no_site, "-c", _GUARDED, *isas],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        capture_output=True,
        text=True,
        check=False,
    )
    found = [line.split() for line in done.stdout.splitlines() if line]
    expected = [
        line for isa in isas for line in ([isa, "1", "begun", "done", "0"], [isa, "3", "begun", str(-signal.SIGSEGV)])
    ]
    assert found == expected, done.stderr

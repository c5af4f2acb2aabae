"""What processes that make masks may take: memory, time and priority of each, and how many there are."""

from __future__ import annotations

import contextlib
import fcntl
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from llm_service.mask_processes import MaskProcesses
from specgrove.machine.low_priority import lower_priority
from specgrove.structures.masks import MaskLimits
from tests.llm.mask_asker import LETTERS, SLOW_LATER, TOKENIZER, Asker, allowed_after, ids_of
from tests.structures.examples import choice, schema
from tests.waiting import LIMIT_S, wait_until


def test_many_have_less_memory_and_are_ended_before_the_service(asker: Asker) -> None:
    for i in range(6):
        asker.answered(asker.open(choice(f"{i}")), 0)
    num_free = [
        resource.prlimit(pid, resource.RLIMIT_AS)[0] - num_bytes_of(asker.processes.server_pid)
        for pid in asker.processes.pids()
    ]
    assert [limit > 1 << 29 for limit in num_free] == [True] * 4 + [False] * 2
    for pid in asker.processes.pids():
        assert Path(f"/proc/{pid}/oom_score_adj").read_text().strip() == "1000"


def num_bytes_of(pid: int | None) -> int:
    """Of its address space."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[0]) * resource.getpagesize()


def test_the_priority_of_one_is_that_of_no_other(asker: Asker) -> None:
    if not Path("/proc/self/autogroup").exists():
        pytest.skip("this kernel shares processors out among processes alone")
    for structure in (LETTERS, choice("yes", "no")):
        asker.answered(asker.open(structure), 0)
    lowered, other = asker.processes.pids()
    assert asker.processes.server_pid is not None
    pids = other, asker.processes.server_pid
    before = [priority_of(pid) for pid in pids]
    lower_priority(lowered)
    assert [priority_of(pid) for pid in pids] == before
    assert priority_of(lowered) != before[0]


def priority_of(pid: int) -> tuple[str, int]:
    """Of its session, without the session's number, and its own."""
    autogroup = Path(f"/proc/{pid}/autogroup").read_text()
    return autogroup.partition(" ")[2], os.getpriority(os.PRIO_PROCESS, pid)


def test_a_limit_of_the_address_space_stays_as_it_is() -> None:
    """As ``ulimit -v`` sets it: a process may have less then, and not more."""
    limit = 1 << 40
    script = (
        "import resource\nfrom specgrove.structures import mask_server\n"
        f"resource.setrlimit(resource.RLIMIT_AS, ({limit}, {limit}))\n"
        "mask_server._limit(1 << 20)\nprint(*resource.getrlimit(resource.RLIMIT_AS))"
    )
    soft, hard = map(int, subprocess.check_output([sys.executable, "-c", script]).split())
    assert hard == limit
    assert soft < limit


def test_one_that_compiles_takes_any_of_the_few_turns() -> None:
    """The others are taken by this process."""
    script = (
        "import sys\nfrom specgrove.structures import mask_server as server\n"
        "with server._one_of_few(int(sys.argv[1])): print('compiles')"
    )
    compiling = os.memfd_create("compiling")
    try:
        for free in range(4):
            for place in range(4):
                fcntl.lockf(compiling, fcntl.LOCK_UN if place == free else fcntl.LOCK_EX, 1, place)
            command = [sys.executable, "-c", script, str(compiling)]
            assert subprocess.check_output(command, pass_fds=[compiling], timeout=LIMIT_S) == b"compiles\n"
    finally:
        os.close(compiling)


MANY_TEXTS = schema({"type": "array", "items": {"enum": [f"{i:05}" for i in range(20_000)]}, "maxItems": 3})


@contextlib.contextmanager
def limited(limits: MaskLimits) -> Iterator[Asker]:
    processes = MaskProcesses(TOKENIZER, limits)
    yield Asker(processes)
    processes.close()


@pytest.mark.parametrize(
    "limits", [MaskLimits(compile_s=0.001), MaskLimits(first_bytes=1 << 20)], ids=["time", "memory"]
)
def test_a_structure_that_takes_too_much_to_compile_is_refused(limits: MaskLimits) -> None:
    with limited(limits) as asker:
        found = asker.answered(asker.open(MANY_TEXTS), 0)
    assert found.allowed is None
    assert not found.may_retry
    assert found.problem == "could not be compiled: it takes too much time or memory"


def test_what_has_no_place_waits_for_one() -> None:
    with limited(MaskLimits(num_processes=2, wait_s=LIMIT_S)) as asker:
        first, second, third = (asker.open(choice(text)) for text in ("a", "b", "c"))
        asker.answered(first, 0)
        asker.answered(second, 0)
        asker.ask(third, 0)
        number = asker.ask(third, 0, "c")  # instead
        asker.answered(first, 0, "a")
        assert not asker.has(third, number)
        assert len(asker.processes.pids()) == 2
        asker.processes.forget(second)
        assert asker.answer(third, number).allowed.may_end  # type: ignore[union-attr]
        assert len(asker.processes.pids()) == 2
        # So does the next one, of an output that goes on in a new process.
        os.kill(asker.processes.pids()[-1], signal.SIGKILL)
        assert ids_of(asker.answered(third, 0)) == {TOKENIZER.encode("c")[0]}


def test_what_has_had_no_place_for_long_is_told_to_come_again() -> None:
    with limited(MaskLimits(num_processes=1, wait_s=0.01)) as asker:
        asker.answered(asker.open(choice("a")), 0)
        waiting = asker.open(choice("b"))
        found = asker.answered(waiting, 0)
        assert found.may_retry
        assert "outputs with 1 other structures are under way here" in found.problem
        asker.processes.forget(waiting)


def test_places_are_for_structures_that_something_is_asked_of() -> None:
    with limited(MaskLimits(num_processes=2, num_first=0, wait_s=LIMIT_S)) as asker:
        outputs = [(text, asker.open(choice(text))) for text in ("ad", "be", "cf", "da", "eb")]
        numbers = [asker.ask(output, 0) for _, output in outputs]
        for (text, output), number in zip(outputs, numbers, strict=True):
            assert ids_of(asker.answer(output, number)) == allowed_after(choice(text), "")
        for text, output in outputs:  # which goes on where it was
            assert ids_of(asker.answered(output, 0, text[0])) == allowed_after(choice(text), text[0])
            assert len(asker.processes.pids()) <= 2


def test_one_that_leaves_while_it_waits_holds_up_no_output_with_the_same_structure() -> None:
    with limited(MaskLimits(num_processes=1, wait_s=LIMIT_S)) as asker:
        first = asker.open(choice("a"))
        asker.ask(first, 0)
        gone, stays = (asker.open(choice("b")) for _ in range(2))
        asker.ask(gone, 0)
        number = asker.ask(stays, 0)
        asker.processes.forget(gone)
        asker.processes.forget(first)
        assert ids_of(asker.answer(stays, number)) == {TOKENIZER.encode("b")[0]}


def test_few_are_kept_that_no_output_needs() -> None:
    with limited(MaskLimits(num_idle=1)) as asker:
        outputs = [asker.open(choice(text)) for text in ("a", "b", "c")]
        for output in outputs:
            asker.answered(output, 0)
        kept = asker.processes.pids()[-1]
        for output in outputs:
            asker.processes.forget(output)
        wait_until(lambda: asker.processes.pids() == (kept,))


def test_what_is_slow_and_forgotten_holds_up_no_output_with_the_same_structure() -> None:
    with limited(MaskLimits(output_s=1000.0)) as asker:
        innocent, slow = (asker.open(SLOW_LATER) for _ in range(2))
        asker.answered(innocent, 0, "b")
        (pid,) = asker.processes.pids()
        asker.ask(slow, 0, "a" * 30)
        number = asker.ask(innocent, 1, "c")
        asker.processes.forget(slow)
        assert ids_of(asker.answer(innocent, number)) == {TOKENIZER.encode("d")[0]}
        wait_until(lambda: pid not in asker.processes.pids())

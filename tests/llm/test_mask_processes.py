"""Masks from processes: the same as here, whatever happens to the processes, and what is slow or ends them fails alone."""

from __future__ import annotations

import errno
import os
import resource
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from llm_service.mask_processes import MaskProcesses
from specgrove.machine.low_priority import lower_priority
from specgrove.structures.grammars import GrammarCompiler
from specgrove.structures.mask_server import EXPLORED_TOO_LONG
from specgrove.structures.masks import Answer, Question
from specgrove.structures.structured_output import StructuredOutput
from tests.structures.examples import choice, grammar, regex, schema, tiny_vocabulary
from tests.waiting import LIMIT_S, wait_until

TOKENIZER = tiny_vocabulary()
MAX_S = 0.3  # of processor time: the quick ones take a thousandth, the slow one ten times as much
LETTERS = regex("([a-c][d-f]){50}")
# Each text of n letters is written in very many ways, and each of 200 rules begins at each of them.
AMBIGUOUS = grammar(
    "start: r0\n" + "\n".join(
        f"r{i}: " + " | ".join(f"r{(i * 7 + j) % 200} r{(i * 3 + 5 * j) % 200}" for j in range(10)) + ' | "a"' for i in range(200)
    )
)  # fmt: skip
SLOW_LATER = grammar(
    AMBIGUOUS.text.replace("start: r0", 'start: "b" "c" "d" | "a" r0').replace('| "a"\n', "| /[aertu]/\n")
)


class Asker:
    """Opens outputs and asks, one question after another."""

    def __init__(self, processes: MaskProcesses) -> None:
        self.processes = processes
        self.number = 0
        self._answers: dict[tuple[int, int, int], Answer] = {}
        self._changed = threading.Condition()

    def open(self, structure: StructuredOutput) -> int:
        return self.processes.open(structure, self._take)

    def ask(self, output: int, num_kept: int, text: str = "") -> int:
        """The question's number."""
        self.number += 1
        self.processes.ask(Question(output, self.number, num_kept, tuple(TOKENIZER.encode(text)) if text else ()))
        return self.number

    def answer(self, output: int, number: int, node: int = 0) -> Answer:
        with self._changed:
            assert self._changed.wait_for(lambda: (output, number, node) in self._answers, LIMIT_S)
        return self._answers[output, number, node]

    def answered(self, output: int, num_kept: int, text: str = "") -> Answer:
        return self.answer(output, self.ask(output, num_kept, text))

    def has(self, output: int, number: int) -> bool:
        return (output, number, 0) in self._answers

    def _take(self, answer: Answer) -> None:
        with self._changed:
            self._answers[answer.output, answer.number, answer.node] = answer
            self._changed.notify_all()


@pytest.fixture
def asker() -> Iterator[Asker]:
    processes = MaskProcesses(TOKENIZER, MAX_S)
    yield Asker(processes)
    processes.close()


def allowed_after(structure: StructuredOutput, text: str) -> set[int]:
    matcher = GrammarCompiler(TOKENIZER).matcher(structure)
    matcher.take(TOKENIZER.encode(text) if text else [])
    return set(matcher.allowed().tokens.nonzero()[0].tolist())


def ids_of(answer: Answer) -> set[int]:
    assert answer.allowed is not None, answer.problem
    return set(answer.allowed.tokens.nonzero()[0].tolist())


def test_answers_are_those_of_here(asker: Asker) -> None:
    first, second, other = asker.open(LETTERS), asker.open(LETTERS), asker.open(choice("yes", "no"))
    assert ids_of(asker.answered(first, 0)) == allowed_after(LETTERS, "")
    assert ids_of(asker.answered(first, 0, "ad")) == allowed_after(LETTERS, "ad")
    assert ids_of(asker.answered(second, 0, "b")) == allowed_after(LETTERS, "b")
    assert ids_of(asker.answered(first, 2, "b")) == allowed_after(LETTERS, "adb")
    assert asker.answered(other, 0, "yes").allowed.may_end  # type: ignore[union-attr]
    assert len(asker.processes.pids()) == 2  # one for each structure
    assert asker.answered(asker.open(regex("(a")), 0).problem.endswith("unclosed group")


def test_nodes_of_a_tree_have_answers_too(asker: Asker) -> None:
    a, d, x = (TOKENIZER.encode(letter)[0] for letter in "adx")
    output = asker.open(LETTERS)
    asker.processes.ask(Question(output, 1, 0, (), (0, x, a, d, d), (-1, 0, 0, 2, 0)))
    assert asker.answer(output, 1).possible_nodes == (0, 2, 3)
    assert ids_of(asker.answer(output, 1, 2)) == allowed_after(LETTERS, "a")
    assert ids_of(asker.answer(output, 1, 3)) == allowed_after(LETTERS, "ad")


def test_drafted_tokens_that_take_too_much_time_fail_nothing(asker: Asker) -> None:
    output, (a,) = asker.open(LETTERS), TOKENIZER.encode("a")
    asker.answered(output, 0)
    (pid,) = asker.processes.pids()
    os.kill(pid, signal.SIGSTOP)
    asker.processes.ask(Question(output, 9, 0, (), (0, a), (-1, 0)))
    os.kill(pid, EXPLORED_TOO_LONG)  # as the kernel's timer does
    os.kill(pid, signal.SIGCONT)
    found = asker.answer(output, 9)
    assert ids_of(found) == allowed_after(LETTERS, "")
    assert found.possible_nodes == (0,)  # of a process that explores nothing


def test_processes_that_are_killed_are_no_loss(asker: Asker) -> None:
    output = asker.open(LETTERS)
    asker.answered(output, 0, "adb")
    (pid,) = asker.processes.pids()
    os.kill(pid, signal.SIGKILL)
    assert ids_of(asker.answered(output, 3, "d")) == allowed_after(LETTERS, "adbd")
    assert asker.processes.pids() != (pid,)
    assert asker.processes.server_pid is not None
    os.kill(asker.processes.server_pid, signal.SIGKILL)
    assert ids_of(asker.answered(output, 4, "c")) == allowed_after(LETTERS, "adbdc")


def test_one_that_is_killed_while_it_compiles_is_begun_again_once(
    asker: Asker, monkeypatch: pytest.MonkeyPatch
) -> None:
    pids: list[int] = []
    take_news = MaskProcesses._take_news

    def killing(processes: MaskProcesses, has_begun: bool, pid: int, status: int) -> None:
        take_news(processes, has_begun, pid, status)
        if has_begun:
            pids.append(pid)
            if len(pids) == 1:
                os.kill(pid, signal.SIGKILL)

    monkeypatch.setattr(MaskProcesses, "_take_news", killing)
    structure = schema({"type": "array", "items": {"enum": [f"{i:05}" for i in range(20_000)]}, "maxItems": 3})
    assert ids_of(asker.answered(asker.open(structure), 0)) == {TOKENIZER.encode(letter)[0] for letter in ("[", "[]")}
    assert asker.processes.pids() == tuple(pids[1:])


def test_killed_ones_hours_apart_fail_no_output(asker: Asker) -> None:
    output, text = asker.open(LETTERS), ""
    for letter in "adbecf":
        asker.answered(output, len(text), letter)
        text += letter
        os.kill(asker.processes.pids()[-1], signal.SIGSTOP)
        number = asker.ask(output, len(text))
        os.kill(asker.processes.pids()[-1], signal.SIGKILL)
        assert ids_of(asker.answer(output, number)) == allowed_after(LETTERS, text)


def test_where_files_run_out_outputs_are_told_and_others_go_on(asker: Asker, monkeypatch: pytest.MonkeyPatch) -> None:
    going_on = asker.open(LETTERS)
    asker.answered(going_on, 0)
    structure = choice("yes", "no")

    def none(*families: int) -> tuple[socket.socket, socket.socket]:
        raise OSError(errno.EMFILE, "Too many open files")

    with monkeypatch.context() as patched:
        patched.setattr("llm_service.mask_streams.socket.socketpair", none)
        output = asker.open(structure)
        found = asker.answered(output, 0)
        assert found.may_retry
        assert "Too many open files" in found.problem
        asker.processes.forget(output)
        asker.processes.forget(output + 100)
        assert ids_of(asker.answered(going_on, 0, "ad"))
    assert ids_of(asker.answered(asker.open(structure), 0)) == allowed_after(structure, "")


def test_a_process_that_can_not_be_asked_for_is_none(asker: Asker, monkeypatch: pytest.MonkeyPatch) -> None:
    """The next ones have their own ids."""
    asker.answered(asker.open(LETTERS), 0)

    def full(*arguments: object) -> int:
        raise OSError(errno.ENOBUFS, "No buffer space available")

    with monkeypatch.context() as patched:
        patched.setattr("llm_service.mask_streams.socket.send_fds", full)
        assert asker.answered(asker.open(choice("yes")), 0).may_retry
    output = asker.open(choice("no"))
    asker.answered(output, 0)
    os.kill(asker.processes.pids()[-1], signal.SIGKILL)
    assert ids_of(asker.answered(output, 0, "n")) == {TOKENIZER.encode("o")[0]}


@pytest.mark.parametrize("fault", ["fork", "beginning"])
def test_where_none_can_be_forked_outputs_are_told(
    fault: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    spoilt = {
        "fork": "def fork():\n    raise BlockingIOError(11, 'Resource temporarily unavailable')\nos.fork = fork\n",
        "beginning": "if 'specgrove.structures.mask_server' in sys.orig_argv:\n    os._exit(3)\n",
    }[fault]
    (tmp_path / "sitecustomize.py").write_text("import os, sys\n" + spoilt)
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}:{Path.cwd()}")
    processes = MaskProcesses(TOKENIZER, MAX_S)
    asker = Asker(processes)
    try:
        found = [asker.answered(asker.open(structure), 0) for structure in (LETTERS, LETTERS, choice("yes"))]
    finally:
        processes.close()
    assert all(answer.may_retry and "no process can be begun" in answer.problem for answer in found)
    assert not processes.pids()
    num_servers = sum("has ended; it is begun anew" in record.message for record in caplog.records)
    # The last one rested; on a very slow machine for longer than it waits.
    assert num_servers == 0 if fault == "fork" else num_servers >= 2


def test_one_that_has_worked_for_long_gets_no_more_outputs() -> None:
    processes = MaskProcesses(TOKENIZER, 100.0)
    asker = Asker(processes)
    try:
        slow = asker.open(AMBIGUOUS)
        asker.answered(slow, 0)
        (pid,) = processes.pids()
        assert processes.server_pid is not None
        priority = os.getpriority(os.PRIO_PROCESS, processes.server_pid)
        asker.ask(slow, 0, "aaa")
        wait_until(lambda: os.getpriority(os.PRIO_PROCESS, pid) > priority)
        assert ids_of(asker.answered(asker.open(AMBIGUOUS), 0))
        assert len(processes.pids()) == 2
        processes.forget(slow)
        wait_until(lambda: pid not in processes.pids())
    finally:
        processes.close()


def test_one_that_works_for_long_delays_no_other_structure_and_ends(asker: Asker) -> None:
    quick, slow = asker.open(LETTERS), asker.open(AMBIGUOUS)
    asker.answered(quick, 0)
    asker.answered(slow, 0)
    number = asker.ask(slow, 0, "aaa")
    pid = asker.processes.pids()[-1]
    os.kill(pid, signal.SIGSTOP)  # it is at it as long as the test says
    for num_tokens in range(0, 40, 2):
        assert ids_of(asker.answered(quick, num_tokens, "ad"))
    assert not asker.has(slow, number)
    os.kill(pid, signal.SIGCONT)
    found = asker.answer(slow, number)
    assert found.allowed is None
    assert "has taken too much time" in found.problem
    assert "within 0.3 s of processor time" in found.problem
    # It is told so again. The next one with this structure has its own time.
    assert asker.answered(slow, 3).problem == found.problem
    another = asker.open(AMBIGUOUS)
    number = asker.ask(another, 0, "aaa")
    asker.processes.forget(another)  # nobody waits for it: its process ends
    assert ids_of(asker.answered(quick, 0))


def test_outputs_beside_one_that_is_slow_go_on_in_a_new_process(asker: Asker) -> None:
    """They have the same grammar, which is slow behind one of its letters alone."""
    innocent, slow = (asker.open(SLOW_LATER) for _ in range(2))
    asker.answered(innocent, 0, "b")
    guilty = asker.ask(slow, 0, "aaaaa")
    number = asker.ask(innocent, 1, "c")
    assert "too much time" in asker.answer(slow, guilty).problem
    assert ids_of(asker.answer(innocent, number)) == {TOKENIZER.encode("d")[0]}


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


def test_all_end_with_what_started_them(asker: Asker) -> None:
    asker.answered(asker.open(LETTERS), 0)
    pids = [*asker.processes.pids(), asker.processes.server_pid]
    asker.processes.close()
    for pid in pids:
        assert pid is not None
        wait_until(lambda pid=pid: _is_gone(pid))  # type: ignore[misc]


def _is_gone(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return False

"""Masks from processes: the same as here, and what is slow delays and fails itself alone."""

from __future__ import annotations

import os
import signal

from llm_service.mask_processes import MaskProcesses
from specgrove.structures.mask_server import EXPLORED_TOO_LONG
from specgrove.structures.masks import MaskLimits, Question
from tests.llm.mask_asker import AMBIGUOUS, LETTERS, SLOW_LATER, TOKENIZER, Asker, allowed_after, ids_of
from tests.structures.examples import choice, regex
from tests.waiting import wait_until


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


def test_one_that_has_worked_for_long_gets_no_more_outputs() -> None:
    processes = MaskProcesses(TOKENIZER, MaskLimits(output_s=100.0))
    asker = Asker(processes)
    try:
        slow = asker.open(AMBIGUOUS)
        asker.answered(slow, 0)
        (pid,) = processes.pids()
        assert processes.server_pid is not None
        priority = os.getpriority(os.PRIO_PROCESS, processes.server_pid)
        asker.ask(slow, 0, "aaaaaaaa")
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
    number = asker.ask(slow, 0, "aaaaaaaa")
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
    number = asker.ask(another, 0, "aaaaaaaa")
    asker.processes.forget(another)  # nobody waits for it: its process ends
    assert ids_of(asker.answered(quick, 0))


def test_outputs_beside_one_that_is_slow_go_on_in_a_new_process(asker: Asker) -> None:
    """They have the same grammar, which is slow behind one of its letters alone."""
    innocent, slow = (asker.open(SLOW_LATER) for _ in range(2))
    asker.answered(innocent, 0, "b")
    guilty = asker.ask(slow, 0, "aaaaaaaa")
    number = asker.ask(innocent, 1, "c")
    assert "too much time" in asker.answer(slow, guilty).problem
    assert ids_of(asker.answer(innocent, number)) == {TOKENIZER.encode("d")[0]}

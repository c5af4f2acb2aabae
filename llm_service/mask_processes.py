"""Masks from processes: one for each structure that outputs have, so that a slow one delays no others. A ``MaskSource``.

A thread of its own talks to them. Invariant: each question has its root's answer in the end, unless its output is forgotten. A process that
takes too long fails the output that it worked for; the others with the same structure go on in a new one (``mask_blame``). Where no process
can be had, outputs are told that another time there may be one; so they are where something is wrong here.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import threading
from collections import OrderedDict
from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from typing import Any

from llm_service.mask_blame import blame_for_end
from llm_service.mask_forks import MaskForks
from llm_service.mask_process import LastStructures, MaskedOutput, MaskProcess
from llm_service.mask_queue import MaskQueue
from specgrove.machine.low_priority import lower_priority
from specgrove.structures.masks import Answer, Compiled, Forgotten, MaskLimits, Question
from specgrove.structures.structured_output import StructuredOutput
from specgrove.tokenizer import Tokenizer

logger = logging.getLogger(__name__)

Deliver = Callable[[Answer], None]

_MAX_NUM_UNEXPLORED = 128
# So long after a question it is looked whether the process has worked on it all the time: then it stands back for others.
_WATCH_S = 0.025
_UNSERVED = "can't be served now, since"


class MaskProcesses:
    """For one vocabulary. The processes begin when they are needed."""

    def __init__(self, tokenizer: Tokenizer, limits: MaskLimits = MaskLimits()) -> None:  # noqa: B008
        self._limits = limits
        self._numbers = itertools.count(1)
        self._outputs: dict[int, MaskedOutput] = {}
        self._processes: OrderedDict[StructuredOutput, MaskProcess] = (
            OrderedDict()
        )  # idle ones in the order of their last use
        self._lowered: set[MaskProcess] = set()  # that keep their outputs, and get no others
        self._unexplored = LastStructures(_MAX_NUM_UNEXPLORED)  # with which nothing is done that need not be
        self._watching: asyncio.TimerHandle | None = None
        self._loop = asyncio.new_event_loop()
        self._loop.set_exception_handler(self._take_fault)
        self._forks = MaskForks(
            self._loop, tokenizer, limits, take=self._take, take_end=self._take_end, fail=self._take_failed_fork
        )
        self._queue = MaskQueue(
            self._loop,
            self._forks,
            limits.wait_s,
            take_begun=self._take_begun,
            make_room=self._make_room,
            fail=self._take_failed_fork,
            refuse=self._refuse_late,
        )
        self._thread = threading.Thread(target=self._run, name="masks", daemon=True)
        self._thread.start()

    def open(self, structure: StructuredOutput, deliver: Deliver) -> int:
        """See ``MaskSource``."""
        number = next(self._numbers)
        self._call(lambda: self._open(number, structure, deliver))
        return number

    def ask(self, question: Question) -> None:
        """See ``MaskSource``."""
        self._call(lambda: self._ask(question))

    def forget(self, output: int) -> None:
        """See ``MaskSource``."""
        self._call(lambda: self._forget(output))

    def close(self) -> None:
        """Ends all processes. Nothing more is answered."""
        self._call(self._loop.stop)
        self._thread.join()

    def pids(self) -> Sequence[int]:
        """Of the structures' processes."""
        return self._forks.pids

    @property
    def server_pid(self) -> int | None:
        """Of the process that forks them, if there is one."""
        return self._forks.server_pid

    def _call(self, function: Callable[[], None]) -> None:
        with contextlib.suppress(RuntimeError):  # it was closed
            self._loop.call_soon_threadsafe(function)

    def _run(self) -> None:
        self._loop.run_forever()
        for process in [*self._processes.values(), *self._lowered]:
            if process.stream is not None:
                process.stream.close()
        self._forks.end()
        self._loop.close()

    def _open(self, number: int, structure: StructuredOutput, deliver: Deliver) -> None:
        process = self._process_of(structure, (number,))
        self._processes.move_to_end(structure)
        self._outputs[number] = MaskedOutput(process, deliver)
        if process.stream is None:
            self._queue.add(process)

    def _ask(self, question: Question) -> None:
        output = self._outputs[question.output]
        output.question = question
        del output.token_ids[question.num_kept :]
        output.token_ids.extend(question.token_ids)
        self._send(output, question)

    def _send(self, output: MaskedOutput, question: Question) -> None:
        process = output.process
        if process.problem is not None:
            self._refuse(question, process)
            return
        if not output.is_told:
            question = replace(question, num_kept=0, token_ids=tuple(output.token_ids))
            output.is_told = process.stream is not None
        process.asked[question.output] = question
        if self._processes.get(process.structure) is process:
            self._processes.move_to_end(process.structure)
        if process.stream is None:
            self._queue.add(process)
        else:
            process.stream.send(question)
            self._watch()

    def _forget(self, number: int) -> None:
        output = self._outputs.pop(number, None)
        if output is None:
            return
        process = output.process
        process.outputs.discard(number)
        if process.problem is None:
            if process.stream is None:
                process.asked.pop(number, None)
            else:
                process.stream.send(Forgotten(number))
            # Nobody waits for what it works on, or it could only work at a low priority.
            if not process.outputs and (process.asked or not process.is_compiled or process in self._lowered):
                self._remove(process)
            elif process in self._lowered and next(iter(process.asked), None) == number:
                self._begin_without(process)
        self._end_idle()

    def _end_idle(self) -> None:
        idle = [process for process in self._processes.values() if not process.outputs]
        num_kept = 0 if self._queue else self._limits.num_idle
        for process in idle[: max(len(idle) - num_kept, 0)]:
            self._remove(process)

    def _make_room(self) -> None:
        """Those that no output needs give up their places, then those that are at nothing: for their outputs' next questions they wait."""
        self._end_idle()
        at_nothing = [process for process in [*self._processes.values(), *self._lowered] if process.may_rest]
        for process in at_nothing[: max(len(self._queue) - self._forks.num_ending, 0)]:
            self._remove(process)
            self._begin_anew(process, ())
            process.outputs.clear()

    def _remove(self, process: MaskProcess) -> None:
        if self._processes.get(process.structure) is process:
            del self._processes[process.structure]
        self._lowered.discard(process)
        if process.stream is None:
            self._queue.remove(process)
            return
        process.stream.close()  # at which it ends, unless it is amid an answer
        if process.asked or not process.is_compiled:
            process.kill()

    def _begin_without(self, process: MaskProcess) -> None:
        """It works for long on what nobody waits for any more: the others' questions go to another one."""
        asked, process.asked = [question for question in process.asked.values() if question.output in self._outputs], {}
        self._remove(process)
        process.kill()
        self._begin_anew(process, asked)
        process.outputs.clear()

    def _process_of(self, structure: StructuredOutput, outputs: Collection[int]) -> MaskProcess:
        """That has these outputs from now on. It is put into the queue when something is asked of it."""
        found = self._processes.get(structure)
        if found is None:
            found = MaskProcess(structure, explores=structure not in self._unexplored)
            self._processes[structure] = found
        found.outputs.update(outputs)
        return found

    def _take_begun(self, process: MaskProcess) -> None:
        asked, process.asked = process.asked, {}
        for question in asked.values():
            self._send(self._outputs[question.output], question)

    def _refuse_late(self, process: MaskProcess) -> None:
        num = self._limits.num_processes
        problem = f"{_UNSERVED} outputs with {num} other structures are under way here; try again when some of them have ended"
        self._refuse_all(process, problem, may_retry=True)

    def _take_failed_fork(self, process: MaskProcess, problem: str) -> None:
        self._refuse_all(
            process, f"{_UNSERVED} no process can be begun that makes its masks: {problem}", may_retry=True
        )
        self._queue.begin_soon()  # there is a place again

    def _take(self, process: MaskProcess, message: Answer | Compiled) -> None:
        if isinstance(message, Compiled):
            process.is_compiled = True
            if message.problem:
                self._refuse_all(process, message.problem)
            self._queue.begin_soon()
            return
        output, asked = self._outputs.get(message.output), process.asked.get(message.output)
        if asked is not None and (message.node, message.number) == (0, asked.number):
            del process.asked[message.output]
            self._queue.begin_soon()  # which may have its place
        if output is not None:
            if message.node == 0:
                output.num_ends = 0
                if output.question is not None and output.question.number == message.number:
                    output.question = None
            output.deliver(message)

    def _refuse_all(self, process: MaskProcess, problem: str, *, may_retry: bool = False) -> None:
        process.problem, process.may_retry = problem, may_retry
        self._remove(process)
        asked, process.asked = process.asked, {}
        for question in asked.values():
            self._refuse(question, process)

    def _refuse(self, question: Question, process: MaskProcess) -> None:
        """With its process's problem."""
        if (output := self._outputs.get(question.output)) is not None:
            output.question = None
            problem = process.problem or ""
            output.deliver(Answer(question.output, question.number, 0, None, problem, may_retry=process.may_retry))

    def _take_end(self, process: MaskProcess, code: int | None) -> None:
        """See ``MaskForks``."""
        assert process.stream is not None
        process.stream.read_rest()
        asked, process.asked = process.asked, {}
        self._remove(process)
        if process.problem is None and process.outputs:
            self._go_on_after(process, code, asked)
        self._queue.begin_soon()

    def _go_on_after(self, process: MaskProcess, code: int | None, asked: dict[int, Question]) -> None:
        if code is not None:
            logger.warning("a mask maker has ended with %d", code)
            process.asked = asked
            max_s = self._limits.output_s
            blame = blame_for_end(process, code, outputs=self._outputs, unexplored=self._unexplored, output_s=max_s)
            if blame is not None and blame.question is None:
                self._refuse_all(process, blame.problem)
            elif blame is not None and blame.question is not None:
                self._give_up(process, blame.question, blame.problem)
            asked, process.asked = process.asked, {}
        if process.outputs and process.problem is None:
            self._begin_anew(process, list(asked.values()))

    def _give_up(self, process: MaskProcess, question: Question, problem: str, *, may_retry: bool = False) -> None:
        """One output alone."""
        process.asked.pop(question.output, None)
        process.outputs.discard(question.output)
        output = self._outputs.get(question.output)
        if output is not None:
            output.process = MaskProcess(process.structure, problem=problem, may_retry=may_retry)
            self._refuse(question, output.process)

    def _take_fault(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """Whatever is wrong here, no question stays without an answer."""
        logger.error("a mistake among mask makers: %s", context["message"], exc_info=context.get("exception"))
        for output in list(self._outputs.values()):
            if output.question is not None:
                problem = f"{_UNSERVED} there is a mistake in the service"
                self._give_up(output.process, output.question, problem, may_retry=True)

    def _begin_anew(self, lost: MaskProcess, asked: Sequence[Question]) -> None:
        process = self._process_of(lost.structure, lost.outputs)
        process.num_kills = max(process.num_kills, lost.num_kills)
        if not lost.is_compiled:
            process.num_lost_compiles = max(process.num_lost_compiles, lost.num_lost_compiles)
        for number in lost.outputs:
            self._outputs[number].process, self._outputs[number].is_told = process, False
        for question in asked:
            if (output := self._outputs.get(question.output)) is not None:
                self._send(output, question)

    def _watch(self) -> None:
        if self._watching is None:
            self._watching = self._loop.call_later(_WATCH_S, self._look)

    def _look(self) -> None:
        """Whoever works on one answer for long stands back, and is left where nobody waits for that one."""
        self._watching = None
        for process in list(self._processes.values()):
            if process.pid is not None and process.has_worked_long():
                lower_priority(process.pid)  # which can't be raised again
                del self._processes[process.structure]
                self._lowered.add(process)
        for process in list(self._lowered):
            if process.asked and next(iter(process.asked)) not in self._outputs:
                self._begin_without(process)
        if any(process.asked for process in [*self._processes.values(), *self._lowered]):
            self._watch()

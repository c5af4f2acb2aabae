"""Masks from processes: one for each structure that outputs have, so that a slow one delays no others. A ``MaskSource``.

A thread of its own talks to them. Invariant: each question has its root's answer in the end, unless its output is forgotten. A process that
takes too long fails the output that it worked for; the others with the same structure go on in a new one.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import os
import signal
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from llm_service.mask_streams import ForkServer, MessageStream
from specgrove.machine.low_priority import lower_priority
from specgrove.structures.mask_server import EXPLORED_TOO_LONG, TOO_SLOW
from specgrove.structures.masks import MAX_S, Answer, Compiled, Forgotten, Opening, Question, too_slow
from specgrove.structures.structured_output import StructuredOutput
from specgrove.tokenizer import Tokenizer

logger = logging.getLogger(__name__)

Deliver = Callable[[Answer], None]

_MAX_NUM_IDLE = 8
_MAX_NUM_UNEXPLORED = 128
_MAX_NUM_ENDS = 2
# So long after a question a process that has worked on it all the time stands back for others.
_WATCH_S = 0.025
_SLOW_SHARE = 0.4


@dataclass(slots=True)
class _Output:
    process: _Process
    deliver: Deliver
    token_ids: list[int] = field(default_factory=list)
    is_told: bool = False
    """Whether the process knows the tokens."""
    num_ends: int = 0
    """Processes that ended while they worked for it."""


class MaskProcesses:
    """For one vocabulary. The processes begin when they are needed."""

    def __init__(self, tokenizer: Tokenizer, max_s: float = MAX_S) -> None:
        """``max_s`` is processor time that one output may take, beside ``MAX_S_PER_TOKEN``."""
        self._tokenizer = tokenizer
        self._max_s = max_s
        self._numbers = itertools.count(1)
        self._outputs: dict[int, _Output] = {}
        self._processes: OrderedDict[StructuredOutput, _Process] = (
            OrderedDict()
        )  # idle ones in the order of their last use
        self._by_pid: dict[int, _Process] = {}
        self._unexplored: OrderedDict[StructuredOutput, None] = OrderedDict()
        self._server: ForkServer | None = None
        self._to_begin: deque[_Process] = deque()  # that the server was asked for and has not told of
        self._watching: asyncio.TimerHandle | None = None
        self._loop = asyncio.new_event_loop()
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
        return tuple(self._by_pid)

    @property
    def server_pid(self) -> int | None:
        """Of the process that forks them, if there is one."""
        return None if self._server is None else self._server.pid

    def _call(self, function: Callable[[], None]) -> None:
        with contextlib.suppress(RuntimeError):  # it was closed
            self._loop.call_soon_threadsafe(function)

    def _run(self) -> None:
        self._loop.run_forever()
        for process in self._processes.values():
            process.stream.close()
        if self._server is not None:
            self._server.end()
        self._loop.close()

    def _open(self, number: int, structure: StructuredOutput, deliver: Deliver) -> None:
        process = self._process_of(structure)
        self._processes.move_to_end(structure)
        process.outputs.add(number)
        self._outputs[number] = _Output(process, deliver)

    def _ask(self, question: Question) -> None:
        output = self._outputs[question.output]
        del output.token_ids[question.num_kept :]
        output.token_ids.extend(question.token_ids)
        self._send(output, question)

    def _send(self, output: _Output, question: Question) -> None:
        process = output.process
        if process.problem is not None:
            output.deliver(Answer(question.output, question.number, 0, None, process.problem))
            return
        if not output.is_told:
            question, output.is_told = replace(question, num_kept=0, token_ids=tuple(output.token_ids)), True
        process.asked[question.output] = question
        process.stream.send(question)
        self._watch()

    def _forget(self, number: int) -> None:
        process = self._outputs.pop(number).process
        process.outputs.discard(number)
        if process.problem is None:
            process.stream.send(Forgotten(number))
            if process.asked and not process.outputs:  # nobody waits for what it works on
                self._remove(process)
        idle = [process for process in self._processes.values() if not process.outputs]
        for process in idle[: max(len(idle) - _MAX_NUM_IDLE, 0)]:
            self._remove(process)

    def _remove(self, process: _Process) -> None:
        if self._processes.get(process.structure) is process:
            del self._processes[process.structure]
        process.stream.close()  # at which it ends, unless it is amid an answer
        if process.asked and process.pid is not None:
            with contextlib.suppress(ProcessLookupError):  # it has ended, and that will be told
                os.kill(process.pid, signal.SIGKILL)

    def _process_of(self, structure: StructuredOutput) -> _Process:
        found = self._processes.get(structure)
        if found is None:
            if self._server is None:
                self._server = ForkServer(self._loop, self._tokenizer, self._take_news, self._lose_server)
            found = self._processes[structure] = _Process(structure)
            found.stream = self._server.fork(lambda message: self._take(found, message))
            self._to_begin.append(found)
            found.stream.send(Opening(structure, structure not in self._unexplored, self._max_s))
        return found

    def _take(self, process: _Process, message: Answer | Compiled) -> None:
        if isinstance(message, Compiled):
            process.is_compiled = True
            if message.problem:
                self._refuse_all(process, message.problem)
            return
        asked = process.asked.get(message.output)
        if asked is not None and (message.node, message.number) == (0, asked.number):
            del process.asked[message.output]
        if (output := self._outputs.get(message.output)) is not None:
            output.deliver(message)

    def _refuse_all(self, process: _Process, problem: str) -> None:
        process.problem = problem
        self._remove(process)
        asked, process.asked = process.asked, {}
        for question in asked.values():
            self._refuse(question, problem)

    def _refuse(self, question: Question, problem: str) -> None:
        if (output := self._outputs.get(question.output)) is not None:
            output.deliver(Answer(question.output, question.number, 0, None, problem))

    def _take_news(self, has_begun: bool, pid: int, status: int) -> None:
        if has_begun:
            process = self._by_pid[pid] = self._to_begin.popleft()
            process.pid = pid
        else:
            self._take_end(self._by_pid.pop(pid), os.waitstatus_to_exitcode(status))

    def _lose_server(self) -> None:
        server, self._server = self._server, None
        assert server is not None
        logger.error("the process that forks mask makers has ended; it is begun anew when it is needed")
        server.end()
        lost = [*self._by_pid.values(), *self._to_begin]
        self._by_pid.clear()
        self._to_begin.clear()
        for process in lost:
            self._take_end(process, None)

    def _take_end(self, process: _Process, code: int | None) -> None:
        """``code`` is that of ``os.waitstatus_to_exitcode``; ``None`` where it is not to blame."""
        process.pid = None
        process.stream.read_rest()
        asked, process.asked = list(process.asked.values()), {}
        self._remove(process)
        if process.problem is not None or not process.outputs:
            return
        if code is not None:
            logger.warning("a mask maker has ended with %d", code)
            if not process.is_compiled:
                process.asked = {question.output: question for question in asked}
                self._refuse_all(process, "could not be compiled: it takes too much time or memory")
                return
        if code == -EXPLORED_TOO_LONG:
            self._explore_no_more(process.structure)
        elif code is not None and asked and self._is_to_blame(asked[0], is_slow=code == -TOO_SLOW):
            self._give_up(process, asked.pop(0), is_slow=code == -TOO_SLOW)
        if process.outputs:
            self._begin_anew(process, asked)

    def _explore_no_more(self, structure: StructuredOutput) -> None:
        self._unexplored[structure] = None
        while len(self._unexplored) > _MAX_NUM_UNEXPLORED:
            self._unexplored.popitem(last=False)

    def _is_to_blame(self, question: Question, *, is_slow: bool) -> bool:
        """Whether what a process worked on made it end. Where it was not the time it may be chance, once."""
        output = self._outputs.get(question.output)
        if output is None:
            return True
        output.num_ends += 1
        return is_slow or output.num_ends >= _MAX_NUM_ENDS

    def _give_up(self, process: _Process, question: Question, *, is_slow: bool) -> None:
        output = self._outputs.get(question.output)
        if output is not None:
            num_tokens = len(output.token_ids)
            problem = (
                too_slow(num_tokens, self._max_s)
                if is_slow
                else f"after {num_tokens} tokens it has ended its process twice"
            )
            process.outputs.discard(question.output)
            output.process = _Process(process.structure, problem)
            self._refuse(question, problem)

    def _begin_anew(self, lost: _Process, asked: Sequence[Question]) -> None:
        process = self._process_of(lost.structure)
        process.outputs |= lost.outputs
        for number in lost.outputs:
            self._outputs[number].process, self._outputs[number].is_told = process, False
        for question in asked:
            if (output := self._outputs.get(question.output)) is not None:
                self._send(output, question)

    def _watch(self) -> None:
        if self._watching is None:
            self._watching = self._loop.call_later(_WATCH_S, self._look)

    def _look(self) -> None:
        """Whoever works on one answer for long stands back."""
        self._watching = None
        for process in self._processes.values():
            if process.pid is None or process.is_low or not (process.asked and process.is_compiled):
                process.seen = None
                continue
            question, spent_s = next(iter(process.asked.values())), _processor_time_s(process.pid)
            seen_question, seen_s = process.seen or (None, 0.0)
            if seen_question is question and spent_s - seen_s > _SLOW_SHARE * _WATCH_S:
                lower_priority(process.pid)
                process.is_low = True
            process.seen = question, spent_s
        if any(process.asked for process in self._processes.values()):
            self._watch()


@dataclass(slots=True, eq=False)
class _Process:
    structure: StructuredOutput
    problem: str | None = None
    """Why it answers nothing."""
    pid: int | None = None
    is_compiled: bool = False
    is_low: bool = False
    stream: MessageStream = field(init=False)
    outputs: set[int] = field(default_factory=set)
    asked: dict[int, Question] = field(default_factory=dict)
    """Questions whose roots have no answer, in the order in which it takes them."""
    seen: tuple[Question, float] | None = None
    """What it worked on when it was last looked at, and its processor time then."""


def _processor_time_s(pid: int) -> float:
    """See man 3 clock_getcpuclockid."""
    try:
        return time.clock_gettime((~pid << 3) | 2)
    except OSError:
        return 0.0

"""Masks from processes: one for each structure that outputs have, so that a slow one delays no others. A ``MaskSource``.

A thread of its own talks to them. Invariant: each question has its root's answer in the end, unless its output is forgotten. A process that
takes too long fails the output that it worked for; the others with the same structure go on in a new one. What ended while drafted tokens
may have been its work fails nobody. Where no process can be had, outputs are told that another time there may be one.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import os
import signal
import threading
from collections import OrderedDict, deque
from collections.abc import Callable, Sequence
from dataclasses import replace

from llm_service.mask_process import MaskedOutput, MaskProcess
from llm_service.mask_streams import ForkServer
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
# Processes that fork, and end before they have forked any: after so many of them the next one waits.
_MAX_NUM_VAIN_SERVERS = 2
_REST_S = 5.0
# So long after a question it is looked whether the process has worked on it all the time: then it stands back for others.
_WATCH_S = 0.025
_UNSERVED = "can't be served now, since no process can be begun that makes its masks"


class MaskProcesses:
    """For one vocabulary. The processes begin when they are needed."""

    def __init__(self, tokenizer: Tokenizer, max_s: float = MAX_S) -> None:
        """``max_s`` is processor time that one output may take, beside ``MAX_S_PER_TOKEN``."""
        self._tokenizer = tokenizer
        self._max_s = max_s
        self._numbers = itertools.count(1)
        self._outputs: dict[int, MaskedOutput] = {}
        self._processes: OrderedDict[StructuredOutput, MaskProcess] = (
            OrderedDict()
        )  # idle ones in the order of their last use
        self._lowered: set[MaskProcess] = set()  # that keep their outputs, and get no others
        self._by_pid: dict[int, MaskProcess] = {}
        self._unexplored: OrderedDict[StructuredOutput, None] = OrderedDict()
        self._server: ForkServer | None = None
        self._to_begin: deque[MaskProcess] = deque()  # that the server was asked for and has not told of
        self._num_vain_servers = 0
        self._rests_until_s = 0.0
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
        for process in [*self._processes.values(), *self._lowered]:
            process.stream.close()
        if self._server is not None:
            self._server.end()
        self._loop.close()

    def _open(self, number: int, structure: StructuredOutput, deliver: Deliver) -> None:
        process = self._process_of(structure)
        process.outputs.add(number)
        if process.problem is None:
            self._processes.move_to_end(structure)
        self._outputs[number] = MaskedOutput(process, deliver)

    def _ask(self, question: Question) -> None:
        output = self._outputs[question.output]
        del output.token_ids[question.num_kept :]
        output.token_ids.extend(question.token_ids)
        self._send(output, question)

    def _send(self, output: MaskedOutput, question: Question) -> None:
        process = output.process
        if process.problem is not None:
            self._refuse(question, process)
            return
        if not output.is_told:
            question, output.is_told = replace(question, num_kept=0, token_ids=tuple(output.token_ids)), True
        process.asked[question.output] = question
        process.stream.send(question)
        self._watch()

    def _forget(self, number: int) -> None:
        output = self._outputs.pop(number, None)
        if output is None:
            return
        process = output.process
        process.outputs.discard(number)
        if process.problem is None:
            process.stream.send(Forgotten(number))
            # Nobody waits for what it works on, or it could only work at a low priority.
            if not process.outputs and (process.asked or not process.is_compiled or process in self._lowered):
                self._remove(process)
        idle = [process for process in self._processes.values() if not process.outputs]
        for process in idle[: max(len(idle) - _MAX_NUM_IDLE, 0)]:
            self._remove(process)

    def _remove(self, process: MaskProcess) -> None:
        if self._processes.get(process.structure) is process:
            del self._processes[process.structure]
        self._lowered.discard(process)
        process.stream.close()  # at which it ends, unless it is amid an answer
        if process.asked or not process.is_compiled:
            process.kill()

    def _process_of(self, structure: StructuredOutput) -> MaskProcess:
        """With a problem, and nobody else's, where none can be begun."""
        found = self._processes.get(structure)
        if found is not None:
            return found
        try:
            found = self._begun(structure)
        except ConnectionError:  # who should fork it has ended
            self._lose_server()
            return self._process_of(structure)
        except OSError as error:
            logger.warning("no mask maker can be begun: %s", error)
            return MaskProcess(structure, problem=f"{_UNSERVED}: {error}", may_retry=True)
        self._processes[structure] = found
        return found

    def _begun(self, structure: StructuredOutput) -> MaskProcess:
        if self._server is None:
            if self._loop.time() < self._rests_until_s:
                raise OSError("the process that forks them has ended at its beginning")
            self._server = ForkServer(self._loop, self._tokenizer, self._take_news, self._lose_server)
        process = MaskProcess(structure, explores=structure not in self._unexplored)
        process.stream = self._server.fork(lambda message: self._take(process, message))
        self._to_begin.append(process)
        process.stream.send(Opening(structure, process.explores, self._max_s))
        return process

    def _take(self, process: MaskProcess, message: Answer | Compiled) -> None:
        if isinstance(message, Compiled):
            process.is_compiled = True
            if message.problem:
                self._refuse_all(process, message.problem)
            return
        output, asked = self._outputs.get(message.output), process.asked.get(message.output)
        if asked is not None and (message.node, message.number) == (0, asked.number):
            del process.asked[message.output]
        if output is not None:
            if message.node == 0:
                output.num_ends = 0
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
            problem = process.problem or ""
            output.deliver(Answer(question.output, question.number, 0, None, problem, may_retry=process.may_retry))

    def _take_news(self, has_begun: bool, pid: int, status: int) -> None:
        if not pid:
            logger.warning("no mask maker can be forked: %s", os.strerror(status))
            process = self._to_begin.popleft()
            self._refuse_all(process, f"{_UNSERVED}: {os.strerror(status)}", may_retry=True)
        elif has_begun:
            process = self._by_pid[pid] = self._to_begin.popleft()
            process.pid = pid
            if process.stream.is_closed:  # nobody waits for it any more
                process.kill()
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
        self._num_vain_servers = 0 if server.has_forked else self._num_vain_servers + 1
        if self._num_vain_servers >= _MAX_NUM_VAIN_SERVERS:
            self._rests_until_s = self._loop.time() + _REST_S
        for process in lost:
            self._take_end(process, None)

    def _take_end(self, process: MaskProcess, code: int | None) -> None:
        """``code`` is that of ``os.waitstatus_to_exitcode``; ``None`` where it is not to blame."""
        process.pid = None
        process.stream.read_rest()
        asked, process.asked = process.asked, {}
        self._remove(process)
        if process.problem is not None or not process.outputs:
            return
        if code is not None:
            logger.warning("a mask maker has ended with %d", code)
            process.asked = asked
            self._blame(process, code)
            asked, process.asked = process.asked, {}
        if process.outputs and process.problem is None:
            self._begin_anew(process, list(asked.values()))

    def _blame(self, process: MaskProcess, code: int) -> None:
        """Whoever made it end is refused, if that can be said; the questions that are left are asked anew."""
        is_slow = code == -TOO_SLOW
        if not process.is_compiled:
            process.num_lost_compiles += 1
            if is_slow or process.num_lost_compiles >= _MAX_NUM_ENDS:
                self._refuse_all(process, "could not be compiled: it takes too much time or memory")
        elif code == -EXPLORED_TOO_LONG:
            self._explore_no_more(process.structure)
        elif process.explores and not is_slow:  # drafted tokens may have done it
            process.num_kills += 1
            if code != -signal.SIGKILL or process.num_kills >= _MAX_NUM_ENDS:
                self._explore_no_more(process.structure)
        elif process.asked:
            first = next(iter(process.asked.values()))
            if self._is_to_blame(first, is_slow=is_slow):
                del process.asked[first.output]
                self._give_up(process, first, is_slow=is_slow)

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

    def _give_up(self, process: MaskProcess, question: Question, *, is_slow: bool) -> None:
        output = self._outputs.get(question.output)
        if output is not None:
            num_tokens = len(output.token_ids)
            problem = (
                too_slow(num_tokens, self._max_s)
                if is_slow
                else f"after {num_tokens} tokens it has ended its process twice"
            )
            process.outputs.discard(question.output)
            output.process = MaskProcess(process.structure, problem=problem)
            self._refuse(question, output.process)

    def _begin_anew(self, lost: MaskProcess, asked: Sequence[Question]) -> None:
        process = self._process_of(lost.structure)
        process.outputs |= lost.outputs
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
        """Whoever works on one answer for long stands back."""
        self._watching = None
        for process in list(self._processes.values()):
            if process.pid is not None and process.has_worked_long():
                lower_priority(process.pid)  # which can't be raised again
                del self._processes[process.structure]
                self._lowered.add(process)
        if any(process.asked for process in self._processes.values()):
            self._watch()

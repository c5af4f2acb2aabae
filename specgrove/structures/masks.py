"""Which tokens may follow the nodes of a token tree, by an output's structure: questions, answers, and how they are found.

``MaskMaker`` works for all outputs of one structure, mostly in a process of its own (``mask_server``). Invariant: an answer is a function
of the structure, the vocabulary and the tokens alone. An answer for a tree's root always comes; those for nodes below it are an offer, for
drafted tokens cost nothing but speed where they are not looked at. So an output pays for its roots' answers alone: what is found out about
drafted tokens has an account of its own, at whose end nothing more is found out.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

from specgrove.structures.grammars import Allowed, OutputMatcher
from specgrove.structures.structured_output import StructuredOutput

MAX_S = 2.0
MAX_S_PER_TOKEN = 0.02
"""Of processor time: so much for one output, and so much more for each of its tokens; as much again for tokens that are drafted. A token
takes a tenth of a millisecond; of an ambiguous grammar, which clients may send, seconds."""


@dataclass(frozen=True, slots=True)
class MaskLimits:
    """Of structures' processes, each alone and all together."""

    output_s: float = MAX_S
    """See ``MAX_S``."""
    compile_s: float = 10.0
    """Processor time; a structure that the router let pass takes a second."""
    exploring_s: float = 0.1
    """Processor time for one node below a root."""
    first_bytes: int = 1 << 30
    """Address space beside what a process has when it begins: of the first few that there are at a time, and of each further one."""
    further_bytes: int = 1 << 28
    num_first: int = 4
    num_processes: int = 32
    """That there are at a time. Further structures wait for a place of one that is asked nothing, but not of the first few."""
    num_idle: int = 8
    """That no output needs, and are kept."""
    wait_s: float = 10.0
    """So long an output waits for a process."""


# A structure with which one thing took longer has nothing done for it that need not be.
_SLOW_S = 0.005


@dataclass(frozen=True, slots=True)
class Opening:
    """The first message to a process that works for a structure."""

    structure: StructuredOutput
    explores: bool
    """Whether nodes below roots are answered for, too."""
    limits: MaskLimits
    max_more_bytes: int
    """Of its limits the one for it."""


@dataclass(frozen=True, slots=True)
class Forgotten:
    """An output that has ended."""

    output: int


@dataclass(frozen=True, slots=True)
class Compiled:
    """The first message from such a process; ``problem`` says why nothing follows."""

    problem: str = ""


@dataclass(frozen=True, slots=True)
class Question:
    """What may follow the nodes of a tree? The root, node 0, is the end of the output."""

    output: int
    """Which one: a number."""
    number: int
    """Of the question, rising: it takes the place of the output's earlier ones."""
    num_kept: int
    """The output's tokens are the first so many that were told before, and these:"""
    token_ids: tuple[int, ...]
    node_token_ids: tuple[int, ...] = (0,)
    parents: tuple[int, ...] = (-1,)
    end_token_ids: frozenset[int] = frozenset()
    """After a node that holds one of them nothing follows."""


@dataclass(frozen=True, slots=True)
class Answer:
    """For one node. That of the root comes first."""

    output: int
    number: int
    node: int
    allowed: Allowed | None
    problem: str = ""
    """Why that is not told."""
    possible_nodes: tuple[int, ...] = ()
    """With the root's: all nodes that the output could go on to, rising. An end is none: nothing follows it."""
    spent_s: float = 0.0
    """Processor time that it took."""
    may_retry: bool = False
    """Whether another time there may be no such problem: it is the service's, and not the structure's."""


class TakesTooLongError(ValueError):
    """An output has no time left."""


def too_slow(num_tokens: int, max_s: float) -> str:
    """What is told of an output that has no time left."""
    return (
        f"after {num_tokens} tokens it has taken too much time: what may follow was not found within {max_s:g} s of processor time and "
        f"{MAX_S_PER_TOKEN * 1e3:g} ms for each token; make it less ambiguous: fewer ways to write one text, left recursion, not right"
    )


class _Output:
    def __init__(self, matcher: OutputMatcher, max_s: float) -> None:
        self.matcher = matcher
        self._max_s = max_s
        self.token_ids: list[int] = []
        self.spent_s = 0.0
        """For roots' answers."""
        self.explored_s = 0.0
        """For nodes below them."""

    def left_s(self, num_tokens: int) -> float:
        return self._max_s + MAX_S_PER_TOKEN * num_tokens - self.spent_s

    @property
    def may_explore(self) -> bool:
        return self.explored_s < self._max_s + MAX_S_PER_TOKEN * len(self.token_ids)


class MaskMaker:
    """Answers questions about outputs of one structure. Used by one thread."""

    def __init__(self, matcher_of: Callable[[], OutputMatcher], *, explores: bool = True, max_s: float = MAX_S) -> None:
        """``matcher_of`` gives one at the beginning of an output; it takes no time. ``explores`` and ``max_s`` are an ``Opening``'s."""
        self._matcher_of = matcher_of
        self._explores = explores
        self._max_s = max_s
        self._outputs: dict[int, _Output] = {}
        self._exploring: dict[int, Iterator[Answer]] = {}

    @property
    def has_more(self) -> bool:
        """Whether ``explored`` has something to do."""
        return bool(self._exploring)

    def left_s(self, question: Question) -> float:
        """Processor time that ``answer`` may take."""
        num_tokens = question.num_kept + len(question.token_ids)
        found = self._outputs.get(question.output)
        return self._max_s + MAX_S_PER_TOKEN * num_tokens if found is None else found.left_s(num_tokens)

    def answer(self, question: Question) -> Answer:
        """For the root, with no other possible node."""
        self._exploring.pop(question.output, None)
        output = self._outputs.get(question.output)
        if output is None:
            output = self._outputs[question.output] = _Output(self._matcher_of(), self._max_s)
        started_s = time.thread_time()
        if question.num_kept < output.matcher.num_tokens:
            output.matcher.rewind(question.num_kept)
        del output.token_ids[question.num_kept :]
        output.token_ids.extend(question.token_ids)
        allowed, problem = None, ""
        try:
            if output.left_s(len(output.token_ids)) <= 0:
                raise TakesTooLongError(too_slow(len(output.token_ids), self._max_s))
            allowed = _allowed_after(output, ())
        except ValueError as error:
            problem = str(error)
        spent_s = time.thread_time() - started_s
        output.spent_s += spent_s
        return Answer(question.output, question.number, 0, allowed, problem, (0,), spent_s)

    def with_possible_nodes(self, question: Question, root: Answer) -> Answer:
        """The root's answer with the question's other possible nodes. From then on there is more to explore, if there are any."""
        output = self._outputs[question.output]
        if not (self._explores and len(question.parents) > 1 and root.allowed is not None and root.spent_s < _SLOW_S):
            return root
        if not output.may_explore:
            return root
        started_s = time.thread_time()
        possible = tuple(_possible_nodes(output.matcher, question))
        spent_s = time.thread_time() - started_s
        output.explored_s += spent_s
        if len(possible) > 1:
            self._exploring[question.output] = self._explored(output, question, possible)
        return replace(root, possible_nodes=possible, spent_s=root.spent_s + spent_s)

    def explored(self) -> Answer | None:
        """For some other node, if that can be told."""
        number, exploring = next(iter(self._exploring.items()))
        found = next(exploring, None)
        if found is None:
            self._exploring.pop(number, None)
        return found

    def forget(self, output: int) -> None:
        """An output that has ended."""
        self._exploring.pop(output, None)
        self._outputs.pop(output, None)

    def _explored(self, output: _Output, question: Question, nodes: Sequence[int]) -> Iterator[Answer]:
        """Below a node that has no answer there are none."""
        for node, path in _paths(question, nodes):
            if not output.may_explore:
                return
            started_s, had_started_anew = time.thread_time(), output.matcher.has_started_anew
            allowed = None
            with contextlib.suppress(ValueError):  # the output is not to blame
                allowed = _allowed_after(output, path)
            if output.matcher.is_spent or output.matcher.has_started_anew != had_started_anew:
                output.matcher = self._matcher_of()
                with contextlib.suppress(ValueError):  # as its next question will say
                    output.matcher.go_to(output.token_ids, ())  # which that question should not pay for
            spent_s = time.thread_time() - started_s
            output.explored_s += spent_s
            if allowed is None:
                return
            yield Answer(question.output, question.number, node, allowed, spent_s=spent_s)
            if spent_s > _SLOW_S:
                return


def _allowed_after(output: _Output, path: Sequence[int]) -> Allowed:
    output.matcher.go_to(output.token_ids, path)
    return output.matcher.allowed()


def _possible_nodes(matcher: OutputMatcher, question: Question) -> Iterator[int]:
    started_s = time.thread_time()
    paths: dict[int, list[int]] = {0: []}
    yield 0
    for node in range(1, len(question.parents)):
        if time.thread_time() - started_s > _SLOW_S:
            return
        before, token_id = paths.get(question.parents[node]), question.node_token_ids[node]
        if before is None or token_id in question.end_token_ids:
            continue
        path = [*before, token_id]
        if matcher.num_possible(path) == len(path):
            paths[node] = path
            yield node


def _paths(question: Question, nodes: Sequence[int]) -> Iterator[tuple[int, list[int]]]:
    """Nodes but the root with the tokens that lead there; those below a node come right after it, so that little is taken back."""
    children: dict[int, list[int]] = {}
    for node in nodes:
        children.setdefault(question.parents[node], []).append(node)
    to_come = [(node, [question.node_token_ids[node]]) for node in reversed(children.get(0, []))]
    while to_come:
        node, path = to_come.pop()
        yield node, path
        to_come += [(child, [*path, question.node_token_ids[child]]) for child in reversed(children.get(node, []))]

"""Which SSMs are worth their time: one that adds less to the others' trees than it takes is paused, and tried again now and then.

One per router, over all requests whose trees are as large as pays. What an SSM adds are the accepted tokens that would be lost without
it; what it takes is how long steps waited for it. A token is worth the time that one takes, and little is believed before much was seen.
Tried again is in new requests, after more and more steps, out of what may be spent on finding out (``Exploration``).

Invariants: of the SSMs that are there one at least is asked. A request's SSMs only become fewer: those of a later one would have all of
its text to read. No output depends on it.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from router.exploration import Exploration
from specgrove.loop.drafting import SsmChoice
from specgrove.loop.output import Probe, ProposedTree, Step, VerifiedTree
from specgrove.loop.works import SsmTime
from specgrove.telemetry.metrics import Kind, Metric, Reading

logger = logging.getLogger(__name__)

PAUSED = Metric(
    "specgrove_router_ssm_paused",
    Kind.GAUGE,
    "1 while an SSM is paused: what it adds to the trees of the others is not worth its time. It is still tried again now and then.",
    labels=("ssm",),
)
RETRIALS = Metric(
    "specgrove_router_ssm_retrials_total",
    Kind.COUNTER,
    "Times that an SSM was tried again after a pause.",
    labels=("ssm",),
)

# Drafts after which one counts half as much.
_DECAY = 0.5 ** (1 / 128)
# Nothing is decided on fewer drafts of an SSM, however dear.
_MIN_NUM_DRAFTS = 8.0
# An SSM is paused where it is not worth its time even if it were better than it was seen by so many standard deviations.
_DOUBT = 2.0
# So many drafts after a pause, and it is paused no longer.
_NUM_TRIAL_DRAFTS = 64.0
# Steps, of all requests, till it is tried again; twice as many after each further pause.
_FIRST_NUM_STEPS = 256
_MAX_NUM_STEPS = 16_384
# Drafts that were held up count up to this multiple of the mean, once so many were seen.
_MAX_TIMES_MEAN = 4.0
_NUM_SEEN_TO_CLIP = 4.0
# Of the time that a token takes, what one more step counts.
_STEP_WEIGHT = 0.02


@dataclass(slots=True)
class _Record:
    """Of one SSM beside others; sums over drafts, decayed."""

    num_drafts: float = 0.0
    spent_ms: float = 0.0
    worth_ms: float = 0.0
    """Of the tokens that would have been lost without it."""
    squares: float = 0.0
    """Of what it was worth in each draft: lucky ones are few."""

    def add(self, ms: float, worth_ms: float) -> None:
        """A draft that was waited for so long."""
        if self.num_drafts >= _NUM_SEEN_TO_CLIP:
            ms = min(ms, _MAX_TIMES_MEAN * self.spent_ms / self.num_drafts + 0.1)
        self.num_drafts = self.num_drafts * _DECAY + 1
        self.spent_ms = self.spent_ms * _DECAY + ms
        self.worth_ms = self.worth_ms * _DECAY + worth_ms
        self.squares = self.squares * _DECAY + worth_ms * worth_ms

    def lost_ms(self, token_ms: float) -> float:
        """What it takes more than it can be worth; a token more, at least, might have been luck."""
        return self.spent_ms - self.worth_ms - _DOUBT * math.sqrt(token_ms * token_ms + self.squares)


@dataclass(slots=True)
class _Pause:
    """``num_steps_left`` 0: it may be tried again; ``is_over`` while it is."""

    num_steps: int
    num_steps_left: int
    is_over: bool = False


class SsmPauses:
    """One per router."""

    def __init__(self, exploration: Exploration, on_change: Callable[[], None] = lambda: None) -> None:
        """``on_change`` is told that drafts will take another time from now on."""
        self._exploration = exploration
        self._on_change = on_change
        self._records: dict[str, _Record] = {}
        self._pauses: dict[str, _Pause] = {}
        self._num_retrials: dict[str, int] = {}
        self._token_ms: float | None = None

    @property
    def names(self) -> tuple[str, ...]:
        """Of the SSMs that have drafted beside others."""
        return tuple(sorted({*self._records, *self._pauses}))

    def is_paused(self, ssm: str) -> bool:
        """Whether it is paused now; not so while it is tried again."""
        pause = self._pauses.get(ssm)
        return pause is not None and not pause.is_over

    def num_retrials(self, ssm: str) -> int:
        """Times that it was tried again."""
        return self._num_retrials.get(ssm, 0)

    def choice_for(self, present: Callable[[], Sequence[str]]) -> SsmChoice:
        """For a request that begins now, and leaves it to the router. ``present`` are the SSMs that are there."""
        for name, pause in self._pauses.items():
            if not pause.is_over and pause.num_steps_left == 0 and self._exploration.is_affordable:
                self._try_again(name, pause)
        left_out = {name for name in self._pauses if self.is_paused(name)}

        def names() -> tuple[str, ...]:
            if not left_out and not self._pauses:
                return ()
            left_out.update(name for name in self._pauses if self.is_paused(name))
            found = tuple(present())
            kept = tuple(name for name in found if name not in left_out)
            return () if len(kept) == len(found) else kept

        return names

    def observe(self, step: Step) -> None:
        """A step of a request whose SSMs are chosen here."""
        if step.num_steps <= 0 or not step.tokens:
            return
        for pause in self._pauses.values():
            pause.num_steps_left = max(pause.num_steps_left - step.num_steps, 0)
        token_ms = step.wall_ms / len(step.tokens)
        self._token_ms = token_ms if self._token_ms is None else self._token_ms + _STEP_WEIGHT * (
            min(token_ms, _MAX_TIMES_MEAN * self._token_ms) - self._token_ms
        )  # fmt: skip
        if step.drafted is not None:
            self._add(step.proposed, step.ssm_times, step.verified)
        if step.probe is not None:
            self._add(step.probe.proposed, step.probe.ssm_times, _as_verified(step.probe))

    def trial_ms(self, step: Step) -> float:
        """Of a step's draft, what SSMs took that are being tried again: others will not have to wait so long."""
        if not self._pauses:
            return 0.0
        return sum(time.ms for time in step.ssm_times if time.ssm in self._pauses)

    def _add(self, proposed: Sequence[ProposedTree], times: Sequence[SsmTime], verified: VerifiedTree | None) -> None:
        spent_ms = {each.ssm: 0.0 for each in proposed}  # those that drafted ahead were not waited for
        for time in times:
            spent_ms[time.ssm] = time.ms
        names = [name for name in spent_ms if not self.is_paused(name)]  # drafts under way may end after it began
        if len(names) < 2:
            return  # whether a single one is worth its time is the tree policy's question
        assert self._token_ms is not None
        lost = {} if verified is None else lost_without(verified)
        for name in names:
            record = self._records.get(name)
            if record is None:
                record = self._records[name] = _Record()
            record.add(spent_ms[name], lost.get(name, 0) * self._token_ms)
            if name in self._pauses:
                self._exploration.spend(spent_ms[name])
        self._judge(names)

    def _judge(self, names: Sequence[str]) -> None:
        """Pauses one at most: what the others add may be more without it."""
        assert self._token_ms is not None
        on_trial = [name for name in names if name in self._pauses]
        worst, most_lost_ms = None, 0.0
        for name in on_trial or names:
            record = self._records[name]
            lost_ms = record.lost_ms(self._token_ms)
            if record.num_drafts > _MIN_NUM_DRAFTS - 1 and lost_ms > most_lost_ms:
                worst, most_lost_ms = name, lost_ms
        if worst is not None:
            self._pause(worst)
            return
        for name in on_trial:
            if self._records[name].num_drafts > _NUM_TRIAL_DRAFTS * _TRIAL_SHARE:
                logger.info("SSM %s is worth its time again", name)
                del self._pauses[name]
                self._begin_anew()

    def _pause(self, name: str) -> None:
        before, record = self._pauses.get(name), self._records[name]
        num_steps = _FIRST_NUM_STEPS if before is None else min(2 * before.num_steps, _MAX_NUM_STEPS)
        logger.log(
            logging.INFO if before is None else logging.DEBUG,
            "SSM %s is paused for %d steps: a draft of its takes %.2f ms, and the tokens that only it finds are worth %.2f ms",
            name, num_steps, record.spent_ms / record.num_drafts, record.worth_ms / record.num_drafts,
        )  # fmt: skip
        self._pauses[name] = _Pause(num_steps, num_steps)
        self._begin_anew()

    def _try_again(self, name: str, pause: _Pause) -> None:
        pause.is_over = True
        self._num_retrials[name] = self.num_retrials(name) + 1
        self._records.pop(name, None)

    def _begin_anew(self) -> None:
        """What each adds was seen beside others than there are now."""
        self._records = {name: _Record() for name in self._records}
        self._on_change()

    def readings(self) -> Iterator[Reading]:
        """For metrics."""
        yield Reading(PAUSED, {(name,): float(self.is_paused(name)) for name in self.names})
        yield Reading(RETRIALS, {(name,): self.num_retrials(name) for name in self.names})


def lost_without(verified: VerifiedTree) -> dict[str, int]:
    """By SSM, how many of a tree's accepted tokens would not have been without it: from the first on that it alone proposed."""
    lost: dict[str, int] = {}
    num_accepted = len(verified.accepted_nodes)
    for depth, node in enumerate(verified.accepted_nodes):
        sources = verified.tree.sources[node]
        if sources and not sources & (sources - 1):
            lost.setdefault(verified.ssms[sources.bit_length() - 1], num_accepted - depth)
    return lost


def _as_verified(probe: Probe) -> VerifiedTree:
    """As if it had been."""
    tree, path, parent = probe.tree, [], 0
    nodes = {place: node for node, place in enumerate(zip(tree.parents, tree.token_ids, strict=True))}
    for token_id in probe.token_ids:
        node = nodes.get((parent, token_id))
        if node is None:
            break
        path.append(node)
        parent = node
    return VerifiedTree(tree, tuple(dict.fromkeys(proposed.ssm for proposed in probe.proposed)), tuple(path))


# A record of n drafts has decayed to this share of n.
_TRIAL_SHARE = (1 - _DECAY**_NUM_TRIAL_DRAFTS) / (1 - _DECAY) / _NUM_TRIAL_DRAFTS

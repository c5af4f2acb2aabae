"""The pool's SSMs by kind: what is asked of one of them by its name, and of all of them at once. Owned by the pool's engine, which drafts.

Invariant: names are unique, and all kinds but those with weights answer at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from specgrove.errors import InvalidRequestError
from specgrove.loop.works import DraftWork
from specgrove.runtime.shared_slots import SharedSlots
from ssm_service.hidden_state import HiddenStateSsm
from ssm_service.lookup import LookupSsm
from ssm_service.pass_drafter import PassDrafter
from ssm_service.recycle import RecycleSsm

AnySsm = PassDrafter[Any] | LookupSsm | RecycleSsm


class PoolSsms:
    """One per pool."""

    def __init__(self, ssms: Sequence[AnySsm]) -> None:
        self.neural = {ssm.name: ssm for ssm in ssms if isinstance(ssm, PassDrafter)}
        """Those with weights; they alone have passes."""
        self.hidden = {ssm.name: ssm for ssm in ssms if isinstance(ssm, HiddenStateSsm)}
        """Those of them that read hidden states."""
        self.lookup = {ssm.name: ssm for ssm in ssms if isinstance(ssm, LookupSsm)}
        self.recycle = {ssm.name: ssm for ssm in ssms if isinstance(ssm, RecycleSsm)}
        self.names: tuple[str, ...] = (*self.neural, *self.lookup, *self.recycle)
        """Of all."""

    def check(self, work: DraftWork) -> None:
        """Raises ``InvalidRequestError`` for SSMs that are not there, and for hidden states that one of those asked can't read."""
        unknown = sorted(set(work.ssms) - set(self.names))
        if unknown:
            raise InvalidRequestError.of("ssms", f"{unknown} are not in the pool, which has {list(self.names)}")
        for name in self.hidden.keys() & set(work.ssms or self.names):
            if work.hidden_states is not None and (problem := self.hidden[name].problem_of(work.hidden_states)):
                raise InvalidRequestError.of("hidden_states", problem)

    def take_losses(self, work: DraftWork) -> bool:
        """Whether one that is asked has lost hidden states of the session since it was asked last: then they must come again."""
        names = self.hidden.keys() & set(work.ssms or self.names)
        return bool([name for name in names if self.hidden[name].take_loss(work.session_id)])

    def token_checksums(self, name: str) -> bytes:
        """What an SSM's token ids mean; empty where it doesn't tell. Raises ``InvalidRequestError``."""
        if name not in self.names:
            raise InvalidRequestError.of("ssm", f"{name!r} is not in the pool, which has {list(self.names)}")
        return self.neural[name].vocabulary.token_checksums if name in self.neural else b""

    @property
    def num_rows(self) -> int:
        """Rows of all passes."""
        return sum(ssm.num_rows for ssm in self.neural.values())

    @property
    def num_slots(self) -> int:
        """KV slots of all."""
        return sum(slots.num_slots for slots in self.slots_by_ssm().values())

    @property
    def num_free_slots(self) -> int:
        """KV slots of all that no session holds: free, or the prefix caches' to give away."""
        return sum(slots.num_free for slots in self.slots_by_ssm().values())

    def slots_by_ssm(self) -> dict[str, SharedSlots]:
        """The KV slots of each one with weights."""
        return {name: ssm.slots for name, ssm in self.neural.items()}

    def drop(self, session_id: str) -> None:
        """All forget the session."""
        for neural in self.neural.values():
            neural.drop(session_id)
        for lookup in self.lookup.values():
            lookup.drop(session_id)
        for recycle in self.recycle.values():
            recycle.drop(session_id)

    def reset(self) -> None:
        """Those with weights forget everything, passes in flight too."""
        for ssm in self.neural.values():
            ssm.reset()

    def check_slots(self) -> None:
        """Raises ``RuntimeError`` where a KV slot has no owner, or two. No pass may be under way."""
        for ssm in self.neural.values():
            ssm.check_slots()

    def save(self) -> None:
        """What SSMs have learnt, where they have a file for it; all that can be written. Raises ``OSError`` for those that can't."""
        problems, ssms = [], list[LookupSsm | RecycleSsm]((*self.lookup.values(), *self.recycle.values()))
        for ssm in ssms:
            try:
                ssm.save()
            except OSError as error:
                problems.append(str(error))
        if problems:
            raise OSError("; ".join(problems))

    def time_level(self, name: str, num_tokens: int) -> float | None:
        """Milliseconds of a pass of one SSM's, with so many rows; ``None`` where its free slots don't suffice or it has no weights."""
        ssm = self.neural.get(name)
        if ssm is None or num_tokens > ssm.slots.num_free:
            return None
        slots = ssm.slots.allocate(num_tokens)
        try:
            return ssm.level_ms(slots)
        finally:
            ssm.slots.free(slots)

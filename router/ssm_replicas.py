"""The SSM services, and which of them drafts for a request. Services with the same SSMs are one *set*: each is as good as the others.

Owned by the app; ``drafters_for`` is asked by the servicer. Invariant: of each set one service at a time drafts for a request.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Sequence

from router.discovery import BY_THE_SYSTEM, ReplicaSet, Resolving
from router.remote_drafter import RemoteDrafter
from router.served_model import ServedModel
from router.ssm_replica import SsmReplica
from specgrove.loop.request import SpeculationOptions
from specgrove.loop.verifier_knowledge import NO_WISHES, DrafterWishes
from specgrove.machine.compute_place import ComputePlace
from specgrove.serving.replica_channel import ServicesTls

_ANY: frozenset[str] = frozenset()


class SsmPool:
    """All SSM services."""

    def __init__(
        self,
        addresses: Sequence[str],
        model: Callable[[], ServedModel | None],
        resolving: Resolving = BY_THE_SYSTEM,
        tls: ServicesTls | None = None,
        *,
        llm_places: Callable[[], Sequence[ComputePlace]] = lambda: (),
    ) -> None:
        """``addresses`` as ``checked_service_address`` lets them through; ``model`` is what is served, ``None`` while it is not known.

        Without ``tls`` they are asked in clear. ``llm_places`` are what LLM services compute on.
        """
        self.replicas = ReplicaSet(addresses, lambda address: SsmReplica(address, model, tls, llm_places), resolving)
        self._drafters: dict[frozenset[str], RemoteDrafter] = {}

    @property
    def ssms(self) -> tuple[str, ...]:
        """Names of all SSMs that may draft, those of services that are away for now included."""
        return tuple(dict.fromkeys(name for replica in self.replicas for name in replica.ssms))

    @property
    def present_ssms(self) -> tuple[str, ...]:
        """Names of those that services draft with now."""
        return tuple(dict.fromkeys(name for replica in self.replicas if replica.is_usable for name in replica.ssms))

    @property
    def all_ssms(self) -> tuple[str, ...] | None:
        """As ``ssms``; None while a service has not told its SSMs yet: then there may be others."""
        return self.ssms if all(replica.ssms for replica in self.replicas) else None

    def start(self) -> None:
        """Connects in the background."""
        self.replicas.start()

    async def connected(self, timeout_s: float) -> None:
        """A moment for the services that are there already."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                await self.replicas.looked_up()
                await asyncio.gather(*(replica.client.connected.wait() for replica in self.replicas))

    async def close(self) -> None:
        """Closes all connections."""
        await self.replicas.close()

    def drafters_for(self, options: SpeculationOptions) -> tuple[RemoteDrafter, ...]:
        """One drafter for each set with SSMs that are asked for, also where all its services are away: they may come back.

        As long as no service has told its SSMs, one for the set that is found first.
        """
        if options.disabled or len(self.replicas) == 0:
            return ()
        sets = dict.fromkeys(frozenset(replica.ssms) for replica in self.replicas if replica.ssms) or {_ANY: None}
        return tuple(
            self._drafter_of(ssms) for ssms in sets if not (options.ssms and ssms and ssms.isdisjoint(options.ssms))
        )

    def wishes_of(self, options: SpeculationOptions) -> DrafterWishes:
        """What the SSMs that may draft for a request, of services that are there, want to be told of it. No SSM wants what can't be had."""
        wishes = NO_WISHES
        if not options.disabled:
            for replica in self.replicas:
                if replica.is_usable:
                    wishes = wishes.with_those_of(replica.wishes_of(options.ssms))
        return wishes

    def _drafter_of(self, ssms: frozenset[str]) -> RemoteDrafter:
        if ssms not in self._drafters:
            self._drafters[ssms] = RemoteDrafter(lambda: self._members_of(ssms))
        return self._drafters[ssms]

    def _members_of(self, ssms: frozenset[str]) -> list[SsmReplica]:
        return [replica for replica in self.replicas if ssms in (_ANY, frozenset(replica.ssms))]

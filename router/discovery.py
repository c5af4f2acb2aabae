"""The replicas of one kind of service: those that are configured, and those at the addresses of names in DNS.

Owned by a pool. Names are resolved again and again, each by itself. Invariants: no replica is there twice; a replica that can still
be of use is never dropped, whatever DNS says; where a name can't be resolved, or has no address, its last ones stay.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

from router.names import look_up
from specgrove.addresses import DnsName, ReplicaAddress, service_at

logger = logging.getLogger(__name__)

LookUp = Callable[[str, int], Awaitable[Sequence[str]]]
"""The IP addresses of a name and port. Raises ``OSError`` where there are none."""

# A name that doesn't resolve is told of at once, and after so many attempts; then after twice as many, and so on.
_NUM_QUIET_ATTEMPTS = 8


@dataclass(frozen=True, slots=True)
class Resolving:
    """How names become addresses, and how often."""

    interval_s: float = 2.0
    look_up: LookUp = look_up


BY_THE_SYSTEM = Resolving()


@dataclass(frozen=True, slots=True)
class Plan:
    """Which replicas come, and the targets of those that go."""

    add: tuple[ReplicaAddress, ...]
    drop: tuple[str, ...]


def plan(is_needed: Mapping[str, bool], found: Iterable[ReplicaAddress]) -> Plan:
    """``is_needed`` tells of each replica, by its target, whether it has to stay though it is not among those ``found``."""
    by_target: dict[str, ReplicaAddress] = {}
    for address in found:
        by_target.setdefault(address.target, address)
    add = tuple(address for target, address in by_target.items() if target not in is_needed)
    return Plan(add, tuple(target for target, stays in is_needed.items() if target not in by_target and not stays))


class Replica(Protocol):
    """What is found, as far as finding it goes."""

    @property
    def is_needed(self) -> bool:
        """Whether it is of use still, for what is under way there or for what may come."""
        ...

    def start(self) -> None:
        """Connects in the background."""
        ...

    def close(self) -> Coroutine[Any, Any, None]:
        """Ends the connection."""
        ...


ReplicaT = TypeVar("ReplicaT", bound=Replica)


class ReplicaSet(Generic[ReplicaT]):
    """Iterates over the replicas that are there now. Those with an address of their own are there from the start."""

    def __init__(
        self, services: Sequence[str], make: Callable[[ReplicaAddress], ReplicaT], resolving: Resolving = BY_THE_SYSTEM
    ) -> None:
        """``services`` are addresses that ``checked_service_address`` has let through."""
        self._make = make
        self._resolving = resolving
        self._found: dict[ReplicaAddress | DnsName, tuple[ReplicaAddress, ...]] = {
            service: () if isinstance(service, DnsName) else (service,) for service in map(service_at, services)
        }
        self._unresolved = {service for service in self._found if isinstance(service, DnsName)}
        """Names that were not looked up yet."""
        self._all_looked_up = asyncio.Event()
        if not self._unresolved:
            self._all_looked_up.set()
        self._replicas: dict[str, ReplicaT] = {}
        self._is_started = False
        self._following: list[asyncio.Task[None]] = []
        self._closing: set[asyncio.Task[None]] = set()
        self._apply()

    def __iter__(self) -> Iterator[ReplicaT]:
        """In the order in which they came; a change meanwhile does no harm."""
        return iter(tuple(self._replicas.values()))

    def __len__(self) -> int:
        """How many there are."""
        return len(self._replicas)

    def start(self) -> None:
        """Connects to the replicas, and looks for more, in the background."""
        self._is_started = True
        for replica in self:
            replica.start()
        for service in self._found:
            if isinstance(service, DnsName):
                self._following.append(asyncio.create_task(self._follow(service)))

    async def looked_up(self) -> None:
        """Returns when each name has been looked up once, in vain or not."""
        await self._all_looked_up.wait()

    async def close(self) -> None:
        """Ends all connections, and what looks for more."""
        for task in self._following:
            task.cancel()
        await asyncio.gather(*self._following, return_exceptions=True)
        await asyncio.gather(*self._closing, *(replica.close() for replica in self))

    async def _follow(self, name: DnsName) -> None:
        num_failures = 0
        while True:
            try:
                ip_addresses = await self._resolving.look_up(name.name, name.port)
                if not ip_addresses:
                    raise OSError("it has no address")
            except (OSError, UnicodeError, RuntimeError) as error:  # no name, no answer, no thread
                num_failures += 1
                self._tell_failure(name, error, num_failures)
            else:
                if num_failures > 0:
                    logger.info("%s: resolves to %s", name, ", ".join(ip_addresses))
                num_failures = 0
                self._found[name] = tuple(map(name.replica_at, ip_addresses))
            self._unresolved.discard(name)
            if not self._unresolved:
                self._all_looked_up.set()
            # After failures as well: who had to stay may have gone meanwhile.
            self._apply()
            await asyncio.sleep(self._resolving.interval_s)

    def _tell_failure(self, name: DnsName, error: Exception, num_failures: int) -> None:
        if not is_told(num_failures):
            return
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        if known := self._found[name]:
            logger.warning(
                "%s: does not resolve any more (%s); known still: %s", name, reason, ", ".join(map(str, known))
            )
        else:
            logger.warning("%s: does not resolve (%s); waiting for it", name, reason)

    def _apply(self) -> None:
        is_needed = {target: replica.is_needed for target, replica in self._replicas.items()}
        change = plan(is_needed, (address for addresses in self._found.values() for address in addresses))
        for address in change.add:
            replica = self._replicas[address.target] = self._make(address)
            if address.server_name is not None:
                logger.info("%s: found by the name %s", address, address.server_name)
            if self._is_started:
                replica.start()
        for target in change.drop:
            logger.info("%s: has left DNS, and is dropped", target)
            closing = asyncio.create_task(self._replicas.pop(target).close())
            self._closing.add(closing)
            closing.add_done_callback(self._closing.discard)


def is_told(num_failures: int) -> bool:
    """Whether the log tells of this failure, of so many in a row."""
    num_rounds, rest = divmod(num_failures, _NUM_QUIET_ATTEMPTS)
    return num_failures == 1 or (rest == 0 and num_rounds.bit_count() == 1)

"""A service behind the router, whichever it is: its connection, and whether it takes work. ``LlmReplica`` and ``SsmReplica`` are such.

Invariant: a service that says NOT_SERVING, or that it drains, is given no new session; those that it has go on there while it lets them.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, Generic, TypeVar

import grpc
from google.protobuf.descriptor import ServiceDescriptor

from specgrove.addresses import ReplicaAddress
from specgrove.serving.health_watch import HealthWatch
from specgrove.serving.replica_channel import ServicesTls
from specgrove.serving.work_stream_client import WorkStreamClient

ItemT = TypeVar("ItemT", bound=Any)
ResultT = TypeVar("ResultT", bound=Any)


class ServiceReplica(ABC, Generic[ItemT, ResultT]):
    """One service. What it is asked when it connects, and what follows when it comes or goes, the subclasses say."""

    def __init__(
        self,
        address: ReplicaAddress,
        service: ServiceDescriptor,
        open_stream: Callable[[grpc.aio.Channel], grpc.aio.StreamStreamCall[Any, Any]],
        request_type: Callable[..., Any],
        tls: ServicesTls | None,
        on_health_change: Callable[[], None] = lambda: None,
    ) -> None:
        """``open_stream`` calls the method that works go by, ``request_type`` is its messages'. Without ``tls`` all is in clear."""
        self.is_draining = False
        self.client = WorkStreamClient[ItemT, ResultT](
            address, open_stream, request_type, on_connect=self._check, on_change=self._on_change, tls=tls
        )
        self.health = HealthWatch(service.full_name, address.target, on_health_change)

    @property
    @abstractmethod
    def num_sessions(self) -> int:
        """Sessions of this router there."""

    @property
    def is_usable(self) -> bool:
        """Whether the sessions that are there may go on there."""
        return self.client.connected.is_set() and not self.is_draining

    @property
    def takes_sessions(self) -> bool:
        """Whether others may be placed there, too."""
        return self.is_usable and self.health.is_serving

    @property
    def is_needed(self) -> bool:
        """See ``discovery``."""
        return self.client.connected.is_set() and (self.health.is_serving or self.num_sessions > 0)

    def start(self) -> None:
        """Connects in the background."""
        self.client.start()

    async def close(self) -> None:
        """Closes the connection."""
        self.health.stop()
        await self.client.close()

    @abstractmethod
    async def _check(self, channel: grpc.aio.Channel) -> None:
        """Asks what it serves, each time it connects. What this raises keeps it out of use."""

    @abstractmethod
    def _on_change(self) -> None:
        """It has come, or is gone."""

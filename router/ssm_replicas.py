"""The SSM services: which SSMs they have, and which of those may draft for the model served.

Owned by the app; ``drafters_for`` is asked by the servicer. Invariant: an SSM made for another tokenizer is never asked.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence

import grpc

from router.remote import RemoteDrafter
from specgrove.errors import UnavailableError
from specgrove.request import SpeculationOptions
from specgrove.serving.address import TlsFiles
from specgrove.serving.status import error_from_rpc
from specgrove.serving.work_stream_client import WorkStreamClient
from specgrove.v1 import ssm_pb2, ssm_pb2_grpc

logger = logging.getLogger(__name__)

_INFO_TIMEOUT_S = 10.0


class SsmReplica:
    """One SSM service, asked what it has each time it connects."""

    def __init__(self, address: str, vocab_sha256: Callable[[], str | None], tls: TlsFiles | None) -> None:
        """``vocab_sha256`` tells the served model's, ``None`` while it is not known."""
        self._vocab_sha256 = vocab_sha256
        self.client = WorkStreamClient[ssm_pb2.DraftItem, ssm_pb2.DraftResult](
            address,
            lambda channel: ssm_pb2_grpc.SsmServiceStub(channel).Draft(),
            ssm_pb2.DraftRequest,
            on_connect=self._check,
            tls=tls,
        )
        self.drafter = RemoteDrafter(self.client)

    async def _check(self, channel: grpc.aio.Channel) -> None:
        vocab_sha256 = self._vocab_sha256()
        if vocab_sha256 is None:
            raise UnavailableError("waiting for the LLM service, to compare tokenizers")
        try:
            stub = ssm_pb2_grpc.SsmServiceStub(channel)
            response = await stub.GetModelInfo(ssm_pb2.SsmServiceGetModelInfoRequest(), timeout=_INFO_TIMEOUT_S)
        except grpc.aio.AioRpcError as error:
            raise error_from_rpc(error) from error
        names = []
        for ssm in response.ssms:
            if ssm.vocab_sha256 in ("", vocab_sha256):
                names.append(ssm.name)
            else:
                logger.error(
                    "%s: SSM %s is not used: it was made for tokenizer %s, the LLM has %s",
                    self.client.address,
                    ssm.name,
                    ssm.vocab_sha256[:12],
                    vocab_sha256[:12],
                )
        logger.info("%s: SSMs in use: %s", self.client.address, ", ".join(names) or "none")
        self.drafter.use(tuple(names), has_others=len(names) < len(response.ssms))


class SsmPool:
    """All SSM services."""

    def __init__(
        self, addresses: Sequence[str], vocab_sha256: Callable[[], str | None], tls: TlsFiles | None = None
    ) -> None:
        self.replicas = tuple(SsmReplica(address, vocab_sha256, tls) for address in addresses)

    @property
    def ssms(self) -> tuple[str, ...]:
        """Names of all SSMs that may draft, those of services that are away for now included."""
        return tuple(dict.fromkeys(name for replica in self.replicas for name in replica.drafter.ssms))

    def start(self) -> None:
        """Connects in the background."""
        for replica in self.replicas:
            replica.client.start()

    async def close(self) -> None:
        """Closes all connections."""
        await asyncio.gather(*(replica.drafter.finish() for replica in self.replicas))
        await asyncio.gather(*(replica.client.close() for replica in self.replicas))

    def drafters_for(self, options: SpeculationOptions) -> tuple[RemoteDrafter, ...]:
        """One drafter for each set of SSMs: of services with the same SSMs, one that is there and least busy.

        Services that are away are included where no other has their SSMs: they may come back before the request ends.
        """
        if options.disabled:
            return ()
        chosen: dict[tuple[str, ...], RemoteDrafter] = {}
        for drafter in (replica.drafter for replica in self.replicas):
            if options.ssms and drafter.ssms and not set(options.ssms) & set(drafter.ssms):
                continue
            other = chosen.get(drafter.ssms)
            if other is None or drafter.busyness < other.busyness:
                chosen[drafter.ssms] = drafter
        return tuple(chosen.values())

"""The SSM services: which SSMs they have, and which of those may draft for the model served.

Owned by the app; ``drafters_for`` is asked by the servicer. Invariant: an SSM made for another tokenizer is never asked,
and of one whose vocabulary is nearly the LLM's no token is taken that means something else to it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import grpc

from router.remote import RemoteDrafter
from specgrove import wire
from specgrove.addresses import ReplicaAddress
from specgrove.errors import UnavailableError
from specgrove.request import SpeculationOptions
from specgrove.serving.status import error_from_rpc
from specgrove.serving.work_stream_client import WorkStreamClient
from specgrove.tokenizer import Tokenizer
from specgrove.v1 import ssm_pb2, ssm_pb2_grpc
from specgrove.vocabulary import MIN_SHARED, compare_vocabularies

if TYPE_CHECKING:
    from specgrove.v1.ssm_pb2_grpc import SsmServiceAsyncStub

logger = logging.getLogger(__name__)

_INFO_TIMEOUT_S = 10.0


class _OtherVocabularyError(Exception):
    """An SSM can't draft for the LLM; says why."""


class SsmReplica:
    """One SSM service, asked what it has each time it connects."""

    def __init__(self, address: ReplicaAddress, tokenizer: Callable[[], Tokenizer | None]) -> None:
        """``tokenizer`` tells the served model's, ``None`` while it is not known."""
        self._tokenizer = tokenizer
        self.client = WorkStreamClient[ssm_pb2.DraftItem, ssm_pb2.DraftResult](
            address,
            lambda channel: ssm_pb2_grpc.SsmServiceStub(channel).Draft(),
            ssm_pb2.DraftRequest,
            on_connect=self._check,
        )
        self.drafter = RemoteDrafter(self.client)

    async def _check(self, channel: grpc.aio.Channel) -> None:
        tokenizer = self._tokenizer()
        if tokenizer is None:
            raise UnavailableError("waiting for the LLM service, to compare tokenizers")
        try:
            stub: SsmServiceAsyncStub = ssm_pb2_grpc.SsmServiceStub(channel)
            response = await stub.GetModelInfo(ssm_pb2.SsmServiceGetModelInfoRequest(), timeout=_INFO_TIMEOUT_S)
        except grpc.aio.AioRpcError as error:
            raise error_from_rpc(error) from error
        wire.check_protocol_version(response.protocol_version)
        foreign_ids: dict[str, frozenset[int]] = {}
        for ssm in response.ssms:
            try:
                foreign_ids[ssm.name] = await self._foreign_ids(stub, ssm, tokenizer)
            except _OtherVocabularyError as error:
                logger.error("%s: SSM %s is not used: %s", self.client.address, ssm.name, error)
        logger.info("%s: SSMs in use: %s", self.client.address, ", ".join(foreign_ids) or "none")
        self.drafter.use(foreign_ids, has_others=len(foreign_ids) < len(response.ssms))

    async def _foreign_ids(
        self, stub: SsmServiceAsyncStub, ssm: ssm_pb2.SsmInfo, tokenizer: Tokenizer
    ) -> frozenset[int]:
        """Token ids that it must not draft. Raises ``_OtherVocabularyError``."""
        if ssm.mode == "lookup" or ssm.vocab_sha256 == tokenizer.vocab_sha256:
            return frozenset()
        made_for = f"it was made for tokenizer {ssm.vocab_sha256[:12]}, the LLM has {tokenizer.vocab_sha256[:12]}"
        try:
            request = ssm_pb2.GetVocabularyRequest(ssm=ssm.name)
            checksums = (await stub.GetVocabulary(request, timeout=_INFO_TIMEOUT_S)).token_checksums
        except grpc.aio.AioRpcError as error:
            raise _OtherVocabularyError(f"{made_for}; its vocabulary can't be had: {error_from_rpc(error)}") from error
        if not checksums:
            raise _OtherVocabularyError(made_for)
        match = await asyncio.to_thread(lambda: compare_vocabularies(tokenizer.token_checksums(), checksums))
        if not match.is_close:
            raise _OtherVocabularyError(
                f"{made_for}; of the LLM's {match.num_tokens} tokens it has {match.num_shared} under the same id, "
                f"{MIN_SHARED:.0%} are needed"
            )
        logger.info(
            "%s: SSM %s has another tokenizer than the LLM; %d of %d tokens are the same, the others are not drafted",
            self.client.address,
            ssm.name,
            match.num_shared,
            match.num_tokens,
        )
        return match.foreign_ids


class SsmPool:
    """All SSM services."""

    def __init__(self, addresses: Sequence[str], tokenizer: Callable[[], Tokenizer | None]) -> None:
        self.replicas = tuple(SsmReplica(ReplicaAddress(address), tokenizer) for address in addresses)

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

"""One SSM service behind the router: its connection, which of its SSMs may draft for the model served, and for whom it does.

Owned by ``SsmPool``; used by ``RemoteDrafter``. Invariants: an SSM made for another tokenizer is never asked, and of one whose
vocabulary is nearly the LLM's no token is taken that means something else to it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

import grpc

from router.service_replica import ServiceReplica
from router.session_closes import SessionCloses
from specgrove.addresses import ReplicaAddress
from specgrove.errors import UnavailableError, WorkLostError
from specgrove.loop.request import Draft, DraftWork
from specgrove.serving.replica_channel import ServicesTls
from specgrove.serving.status import error_from_rpc
from specgrove.serving.work_stream_client import SentItem
from specgrove.tokenizer import Tokenizer
from specgrove.tokenizer.vocabulary import MIN_SHARED, compare_vocabularies
from specgrove.v1 import ssm_pb2, ssm_pb2_grpc
from specgrove.wire import works

if TYPE_CHECKING:
    from specgrove.v1.ssm_pb2_grpc import SsmServiceAsyncStub

logger = logging.getLogger(__name__)

_INFO_TIMEOUT_S = 10.0


class _OtherVocabularyError(Exception):
    """An SSM can't draft for the LLM; says why."""


class SsmReplica(ServiceReplica[ssm_pb2.DraftItem, ssm_pb2.DraftResult]):
    """One SSM service, asked what it has each time it connects."""

    def __init__(
        self, address: ReplicaAddress, tokenizer: Callable[[], Tokenizer | None], tls: ServicesTls | None = None
    ) -> None:
        """``tokenizer`` tells the served model's, ``None`` while it is not known. Without ``tls`` it is asked in clear."""
        super().__init__(
            address,
            ssm_pb2.DESCRIPTOR.services_by_name["SsmService"],
            lambda channel: ssm_pb2_grpc.SsmServiceStub(channel).Draft(),
            ssm_pb2.DraftRequest,
            tls,
        )
        self.ssms: tuple[str, ...] = ()
        """Those that may be used, by the last time that it was connected."""
        self.session_ids: set[str] = set()
        """The ids of the requests that it drafts for."""
        self._foreign_ids: Mapping[str, frozenset[int]] = {}
        self._has_others = False
        self._tokenizer = tokenizer
        self._closing = SessionCloses()
        self._stub: SsmServiceAsyncStub = ssm_pb2_grpc.SsmServiceStub(self.client.channel)

    @property
    def num_sessions(self) -> int:
        """See ``ServiceReplica``."""
        return len(self.session_ids)

    @property
    def takes_sessions(self) -> bool:
        """Whether it may draft for others, too."""
        return super().takes_sessions and bool(self.ssms)

    async def close(self) -> None:
        """Closes the connection, after the sessions that are being closed."""
        await self._closing.finish()
        await super().close()

    def send(self, work: DraftWork) -> SentItem[ssm_pb2.DraftResult]:
        """Asks the SSMs that are wanted. Raises ``UnavailableError`` when the service is away, or has none of them."""
        wanted = tuple(name for name in self.ssms if not work.ssms or name in work.ssms)
        if not wanted:
            raise UnavailableError("none of its SSMs can be used")
        named = () if wanted == self.ssms and not self._has_others else wanted
        return self.client.send(works.draft_work_to_proto(work if named == work.ssms else replace(work, ssms=named), 0))

    def draft_in(self, result: ssm_pb2.DraftResult) -> Draft:
        """The trees of what was sent. Raises the error that came in their place."""
        if not result.HasField("draft"):
            error = works.error_from_proto(result.error)
            if isinstance(error, UnavailableError) and not isinstance(error, WorkLostError):
                self.is_draining = True
            raise error
        return works.draft_from_proto(result.draft, self._foreign_ids)

    def close_session(self, session_id: str) -> None:
        """Tells the service to forget it, in the background."""
        if session_id not in self.session_ids:
            return
        self.session_ids.discard(session_id)
        if self.client.connected.is_set():
            request = ssm_pb2.SsmServiceCloseSessionRequest(session_id=session_id)
            self._closing.start(self._stub.CloseSession, request)

    def _on_change(self) -> None:
        if not self.client.connected.is_set():
            self.health.stop()
            self.session_ids.clear()  # a service forgets the sessions of a stream that has ended

    async def _check(self, channel: grpc.aio.Channel) -> None:
        tokenizer = self._tokenizer()
        if tokenizer is None:
            raise UnavailableError("waiting for the LLM service, to compare tokenizers")
        self._stub = ssm_pb2_grpc.SsmServiceStub(channel)
        try:
            response = await self._stub.GetModelInfo(ssm_pb2.SsmServiceGetModelInfoRequest(), timeout=_INFO_TIMEOUT_S)
        except grpc.aio.AioRpcError as error:
            raise error_from_rpc(error) from error
        works.check_protocol_version(response.protocol_version)
        foreign_ids: dict[str, frozenset[int]] = {}
        for ssm in response.ssms:
            try:
                foreign_ids[ssm.name] = await self._find_foreign_ids(ssm, tokenizer)
            except _OtherVocabularyError as error:
                logger.error("%s: SSM %s is not used: %s", self.client.address, ssm.name, error)
        logger.info("%s: SSMs in use: %s", self.client.address, ", ".join(foreign_ids) or "none")
        await self.health.start(channel)
        # One that has more must be told which.
        self.ssms, self._foreign_ids, self._has_others = (
            tuple(foreign_ids),
            foreign_ids,
            len(foreign_ids) < len(response.ssms),
        )
        self.is_draining = False

    async def _find_foreign_ids(self, ssm: ssm_pb2.SsmInfo, tokenizer: Tokenizer) -> frozenset[int]:
        """Token ids that it must not draft. Raises ``_OtherVocabularyError``."""
        if ssm.mode == "lookup" or ssm.vocab_sha256 == tokenizer.vocab_sha256:
            return frozenset()
        made_for = f"it was made for tokenizer {ssm.vocab_sha256[:12]}, the LLM has {tokenizer.vocab_sha256[:12]}"
        try:
            request = ssm_pb2.GetVocabularyRequest(ssm=ssm.name)
            checksums = (await self._stub.GetVocabulary(request, timeout=_INFO_TIMEOUT_S)).token_checksums
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

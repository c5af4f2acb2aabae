"""One SSM service behind the router: its connection, which of its SSMs may draft for the model served, and for whom it does.

Owned by ``SsmPool``; used by ``RemoteDrafter``. Invariants: an SSM made for another tokenizer is never asked, and of one whose
vocabulary is nearly the LLM's no token is taken that means something else to it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import grpc

from router.served_model import ServedModel
from router.service_replica import ServiceReplica
from router.session_closes import SessionCloses
from router.ssm_wishes import UnmetWishError, wishes_in
from specgrove.addresses import ReplicaAddress
from specgrove.errors import UnavailableError, WorkLostError
from specgrove.loop.verifier_knowledge import NO_WISHES, DrafterWishes, HiddenStates
from specgrove.loop.works import Draft, DraftWork
from specgrove.machine.compute_place import ComputePlace
from specgrove.serving.replica_channel import ServicesTls
from specgrove.serving.status import error_from_rpc
from specgrove.serving.work_stream_client import SentItem
from specgrove.tokenizer import Tokenizer
from specgrove.tokenizer.vocabulary import MIN_SHARED, compare_vocabularies
from specgrove.v1 import ssm_pb2, ssm_pb2_grpc
from specgrove.wire import works
from specgrove.wire.compute_place import place_from_proto
from specgrove.wire.drafts import draft_from_proto, draft_work_to_proto
from specgrove.wire.errors import error_from_proto

if TYPE_CHECKING:
    from specgrove.v1.ssm_pb2_grpc import SsmServiceAsyncStub

logger = logging.getLogger(__name__)

_INFO_TIMEOUT_S = 10.0


class _OtherVocabularyError(Exception):
    """An SSM can't draft for the LLM; says why."""


class SsmReplica(ServiceReplica[ssm_pb2.DraftItem, ssm_pb2.DraftResult]):
    """One SSM service, asked what it has each time it connects."""

    def __init__(
        self,
        address: ReplicaAddress,
        model: Callable[[], ServedModel | None],
        tls: ServicesTls | None = None,
        llm_places: Callable[[], Sequence[ComputePlace]] = lambda: (),
    ) -> None:
        """``model`` tells what is served, ``None`` while it is not known; ``llm_places`` what LLM services compute on.

        Without ``tls`` it is asked in clear.
        """
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
        self._left_ids: set[str] = set()
        self._foreign_ids: Mapping[str, frozenset[int]] = {}
        self._wishes: Mapping[str, DrafterWishes] = {}
        self._has_others = False
        self._draft_ahead = ssm_pb2.DRAFT_AHEAD_UNSPECIFIED
        self._place = ComputePlace()
        self._llm_places = llm_places
        self._model = model
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

    def send(self, work: DraftWork) -> tuple[SentItem[ssm_pb2.DraftResult], bool]:
        """Asks the SSMs that are wanted. Also tells whether the service may go ahead.

        Raises ``UnavailableError`` when the service is away, or has none of them.
        """
        wanted = self._wanted(work.ssms)
        if not wanted:
            raise UnavailableError("none of its SSMs can be used")
        named = () if wanted == self.ssms and not self._has_others else wanted
        if work.hidden_states is not None or work.row_top_k:
            wishes = self.wishes_of(wanted)
            work = replace(
                work,
                hidden_states=_cut(work.hidden_states, wishes.hidden_layers),
                row_top_k=work.row_top_k if wishes.num_row_top_k else (),
            )
        item = draft_work_to_proto(work, 0)
        if named != work.ssms:
            item.ssms[:] = named
        if not self.drafts_ahead:
            item.ahead_ms = 0
        return self.client.send(item), item.ahead_ms > 0

    @property
    def drafts_ahead(self) -> bool:
        """Whether it is asked to grow trees while they are verified: as it wants, or where it takes nothing from an LLM service."""
        if self._draft_ahead != ssm_pb2.DRAFT_AHEAD_AUTO:
            return self._draft_ahead == ssm_pb2.DRAFT_AHEAD_ON
        return not any(self._place.is_shared_with(place) for place in self._llm_places() or [ComputePlace()])

    def wishes_of(self, ssms: Sequence[str]) -> DrafterWishes:
        """What those SSMs of it that may be used want to be told; all of them where none is named."""
        wishes = NO_WISHES
        for name in self._wanted(ssms):
            wishes = wishes.with_those_of(self._wishes[name])
        return wishes

    def has_any(self, ssms: Sequence[str]) -> bool:
        """Whether it has one of these that may be used; none named: any."""
        return any(name in ssms for name in self.ssms) if ssms else bool(self.ssms)

    def _wanted(self, ssms: Sequence[str]) -> tuple[str, ...]:
        return tuple(name for name in self.ssms if not ssms or name in ssms)

    def draft_in(self, result: ssm_pb2.DraftResult) -> Draft:
        """The trees of what was sent. Raises the error that came in their place."""
        if not result.HasField("draft"):
            error = error_from_proto(result.error)
            if isinstance(error, UnavailableError) and not isinstance(error, WorkLostError):
                self.is_draining = True
            raise error
        return draft_from_proto(result.draft, self._foreign_ids)

    def leave(self, session_id: str) -> None:
        """Another service drafts for it now. It may come back, so it isn't closed: a closed one is refused for ever. What is held of it
        here is kept while there is room."""
        self.session_ids.discard(session_id)
        self._left_ids.add(session_id)

    def close_session(self, session_id: str) -> None:
        """Tells the service to forget it, in the background."""
        if session_id not in self.session_ids and session_id not in self._left_ids:
            return
        self.session_ids.discard(session_id)
        self._left_ids.discard(session_id)
        if self.client.connected.is_set():
            request = ssm_pb2.SsmServiceCloseSessionRequest(session_id=session_id)
            self._closing.start(self._stub.CloseSession, request)

    def _on_change(self) -> None:
        if not self.client.connected.is_set():
            self.health.stop()
            self._left_ids.clear()
            self.session_ids.clear()  # a service forgets the sessions of a stream that has ended

    async def _check(self, channel: grpc.aio.Channel) -> None:
        model = self._model()
        if model is None:
            raise UnavailableError("waiting for the LLM service, to compare tokenizers")
        self._stub = ssm_pb2_grpc.SsmServiceStub(channel)
        try:
            response = await self._stub.GetModelInfo(ssm_pb2.SsmServiceGetModelInfoRequest(), timeout=_INFO_TIMEOUT_S)
        except grpc.aio.AioRpcError as error:
            raise error_from_rpc(error) from error
        works.check_protocol_version(response.protocol_version)
        foreign_ids: dict[str, frozenset[int]] = {}
        wishes: dict[str, DrafterWishes] = {}
        for ssm in response.ssms:
            try:
                wishes[ssm.name] = wishes_in(ssm, model)
                foreign_ids[ssm.name] = await self._find_foreign_ids(ssm, model.tokenizer)
            except (_OtherVocabularyError, UnmetWishError) as error:
                logger.error("%s: SSM %s is not used: %s", self.client.address, ssm.name, error)
        logger.info("%s: SSMs in use: %s", self.client.address, ", ".join(foreign_ids) or "none")
        await self.health.start(channel)
        # One that has more must be told which.
        self.ssms, self._foreign_ids, self._wishes, self._has_others = (
            tuple(foreign_ids),
            foreign_ids,
            wishes,
            len(foreign_ids) < len(response.ssms),
        )
        self._draft_ahead, self._place = response.draft_ahead, place_from_proto(response.place)
        self.is_draining = False

    async def _find_foreign_ids(self, ssm: ssm_pb2.SsmInfo, tokenizer: Tokenizer) -> frozenset[int]:
        """Token ids that it must not draft. Raises ``_OtherVocabularyError``."""
        if ssm.mode in ("lookup", "recycle") or ssm.vocab_sha256 == tokenizer.vocab_sha256:
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


def _cut(states: HiddenStates | None, layers: tuple[int, ...]) -> HiddenStates | None:
    """At these layers; ``None`` where they are not among those that the session asked for: it may have begun before the SSMs came."""
    if states is None or not layers or not set(layers).issubset(states.layers):
        return None
    return states.of_layers(layers)

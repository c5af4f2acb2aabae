"""The LLM replicas: who is there, what they serve, and which one takes the next session.

Owned by the app; used by ``RemoteVerifier``. Invariant: all replicas in use serve one model, that of the first that connected;
another one is refused, with a log line, until the router is restarted. Once there is a replica, there is always one in the set.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import grpc

from router.discovery import BY_THE_SYSTEM, ReplicaSet, Resolving
from router.known_prefixes import blocks_of
from router.llm_replica import LlmReplica
from router.measurements import ReplicaLoad
from router.served_model import ServedModel, check_serves, fetch_tokenizer_files, served_model_of, tokenizer_of
from specgrove.errors import InternalError, NoReplicaError
from specgrove.machine.compute_place import ComputePlace
from specgrove.serving.replica_channel import ServicesTls
from specgrove.serving.status import error_from_rpc
from specgrove.v1 import llm_pb2
from specgrove.wire import works

if TYPE_CHECKING:
    from specgrove.v1.llm_pb2_grpc import LlmServiceAsyncStub

# Every so often a replica is asked for a sign of life, where there are others to choose from; new sessions avoid one that gives none.
_PROBE_INTERVAL_S = 1.0


class LlmPool:
    """All LLM replicas."""

    def __init__(
        self, addresses: Sequence[str], resolving: Resolving = BY_THE_SYSTEM, tls: ServicesTls | None = None
    ) -> None:
        """``addresses`` as ``checked_service_address`` lets them through. Without ``tls`` they are asked in clear."""
        self.model: ServedModel | None = None
        self._usable = asyncio.Event()
        self._accepting = asyncio.Lock()
        self._probing: asyncio.Task[None] | None = None
        self._on_change: Callable[[bool], None] = lambda is_usable: None
        self.replicas = ReplicaSet(addresses, lambda address: LlmReplica(address, self, tls), resolving)

    @property
    def is_usable(self) -> bool:
        """Whether any replica takes sessions."""
        return self._usable.is_set()

    @property
    def places(self) -> list[ComputePlace]:
        """What those that are there compute on."""
        return [replica.place for replica in self.replicas if replica.is_usable]

    @property
    def refusal(self) -> str | None:
        """Why no replica is accepted, where each of them has been asked and refused: none of the model served is left to come back."""
        refusals = [replica.refusal for replica in self.replicas]
        return refusals[0] if self.model is not None and refusals and all(refusals) else None

    def start(self, on_change: Callable[[bool], None]) -> None:
        """Connects in the background; ``on_change`` is told when the first replica comes and when the last one goes."""
        self._on_change = on_change
        self.replicas.start()
        self._probing = asyncio.create_task(self._probe())

    async def _probe(self) -> None:
        while True:
            asked = tuple(self.replicas) if len(self.replicas) > 1 else ()
            await asyncio.gather(*(replica.probe() for replica in asked), asyncio.sleep(_PROBE_INTERVAL_S))

    async def close(self) -> None:
        """Closes all connections."""
        if self._probing is not None:
            self._probing.cancel()
            await asyncio.gather(self._probing, return_exceptions=True)
        await self.replicas.close()

    def refresh(self) -> None:
        """Called whenever a replica came or went, or said something else of itself."""
        is_usable = any(replica.takes_sessions for replica in self.replicas)
        if is_usable == self._usable.is_set():
            return
        if is_usable:
            self._usable.set()
        else:
            self._usable.clear()
        self._on_change(is_usable)

    async def accept(self, info: llm_pb2.LlmServiceGetModelInfoResponse, stub: LlmServiceAsyncStub) -> None:
        """Learns the model from the first replica. Raises ``InternalError`` for one with another model, or with other bits."""
        works.check_protocol_version(info.protocol_version)
        async with self._accepting:
            if self.model is None:
                try:
                    files = await fetch_tokenizer_files(stub)
                except grpc.aio.AioRpcError as error:
                    raise error_from_rpc(error) from error
                tokenizer = tokenizer_of(files)
                if tokenizer.vocab_sha256 != info.vocab_sha256:
                    raise InternalError("the LLM service sent a tokenizer whose SHA-256 is not the one it names")
                self.model = served_model_of(info, tokenizer, files)
                return
        check_serves(self.model, info)

    async def measured(self, timeout_s: float) -> None:
        """A moment for the replicas that are there to measure themselves: with a new session they would stop."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                await asyncio.gather(*(replica.measured() for replica in self.replicas))

    def load_of(self, session_id: str, num_requests: int = 0) -> ReplicaLoad:
        """What shares the passes of a session; of one that is nowhere yet, where it would come to.

        Of the router's ``num_requests`` those that are nowhere yet (they come in bursts) will be everywhere alike.
        """
        replica = self.replica_of(session_id)
        num_coming = num_requests - sum([replica.num_sessions for replica in self.replicas])
        if replica is not None and num_coming <= 0:  # as at every step but the first ones
            return ReplicaLoad(replica.row_times, replica.num_sessions)
        usable = [replica for replica in self.replicas if replica.takes_sessions] or list(self.replicas)
        replica = replica or self._least_busy(usable)
        num_sessions = replica.num_sessions + -(-max(num_coming, 0) // len(usable))
        return ReplicaLoad(replica.row_times, max(num_sessions, 1))

    async def wait_usable(self, timeout_s: float) -> None:
        """Raises ``NoReplicaError`` when none came in time."""
        try:
            await asyncio.wait_for(self._usable.wait(), timeout_s)
        except TimeoutError:
            raise NoReplicaError(f"no LLM replica was there for {timeout_s:.0f} s; try again later") from None

    async def place(self, session_id: str, wait_s: float, token_ids: Sequence[int] = (), salt: str = "") -> LlmReplica:
        """The replica for a session: the one it is on while that is usable, else the one with the fewest tokens to work on.

        Those are the tokens of its sessions, and of ``token_ids`` those that it has not cached, as far as that is known.
        """
        until_s = time.monotonic() + wait_s
        while True:
            here = self.replica_of(session_id)
            if here is not None and here.is_usable:
                return here
            if usable := [replica for replica in self.replicas if replica.takes_sessions]:
                break
            await self.wait_usable(max(until_s - time.monotonic(), 0.0))
        self.forget(session_id)
        blocks = blocks_of(token_ids, salt) if len(self.replicas) > 1 else []
        chosen = self._least_busy(usable, blocks)
        chosen.prefixes.add(blocks)
        chosen.session_lens[session_id] = 0
        return chosen

    def _least_busy(self, replicas: Sequence[LlmReplica], blocks: Sequence[int] = ()) -> LlmReplica:
        def work_of(replica: LlmReplica) -> tuple[bool, int, int]:
            num_tokens = replica.num_session_tokens - replica.prefixes.num_known(blocks)
            return not replica.is_answering, num_tokens, replica.num_sessions

        return min(replicas, key=work_of)

    def note_text(self, replica: LlmReplica, token_ids: Sequence[int], salt: str) -> None:
        """A session that was there has ended with these tokens: they stay cached for a while."""
        if len(self.replicas) > 1:
            replica.prefixes.add(blocks_of(token_ids, salt))

    def replica_of(self, session_id: str) -> LlmReplica | None:
        """Where the session is."""
        for replica in self.replicas:
            if session_id in replica.session_lens:
                return replica
        return None

    def forget(self, session_id: str) -> list[LlmReplica]:
        """The session is no longer anywhere; returns where it was."""
        return [r for r in self.replicas if r.session_lens.pop(session_id, None) is not None]

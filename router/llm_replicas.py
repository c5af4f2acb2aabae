"""The LLM replicas: who is there, what they serve, and which one takes the next session.

Owned by the app; used by ``RemoteVerifier``. Invariant: all replicas in use serve one model, that of the first that connected;
another one is refused, with a log line, until the router is restarted.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import grpc

from router.measurements import ReplicaLoad
from router.row_times import RowTimes
from router.served_model import ServedModel, fetch_tokenizer_files, served_model_of, tokenizer_of
from specgrove import wire
from specgrove.addresses import ReplicaAddress
from specgrove.errors import InternalError, NoReplicaError
from specgrove.serving.status import error_from_rpc
from specgrove.serving.work_stream_client import WorkStreamClient
from specgrove.v1 import llm_pb2, llm_pb2_grpc, token_tree_pb2

if TYPE_CHECKING:
    from specgrove.v1.llm_pb2_grpc import LlmServiceAsyncStub

logger = logging.getLogger(__name__)

_INFO_TIMEOUT_S = 10.0
_WARMUP_TIMEOUT_S = 60.0
# Where requests, or a failure, kept a replica from measuring itself it is asked again after these times; then real steps have told enough.
_WARMUP_WAITS_S = (0.0, 5.0, 15.0, 60.0)
# Every so often a replica is asked for a sign of life, where there are others to choose from; new sessions avoid one that gives none.
_PROBE_INTERVAL_S = 1.0
_PROBE_TIMEOUT_S = 1.5


class LlmReplica:
    """One LLM service. ``session_lens`` are the committed lengths of the sessions placed here."""

    def __init__(self, address: ReplicaAddress, pool: LlmPool) -> None:
        self.session_lens: dict[str, int] = {}
        self.is_draining = False
        self.is_answering = True
        self.suspects = asyncio.Lock()
        """Held by the one session here that may have been what another process died of."""
        self.row_times = RowTimes()
        self._measuring: asyncio.Task[None] | None = None
        self._pool = pool
        self.client = WorkStreamClient[llm_pb2.VerifyItem, llm_pb2.VerifyResult](
            address,
            lambda channel: llm_pb2_grpc.LlmServiceStub(channel).Verify(),
            llm_pb2.VerifyRequest,
            on_connect=self._check,
            on_change=self._on_change,
        )
        self.stub: LlmServiceAsyncStub = llm_pb2_grpc.LlmServiceStub(self.client.channel)

    @property
    def is_usable(self) -> bool:
        """Whether sessions may be placed here now."""
        return self.client.connected.is_set() and not self.is_draining

    @property
    def num_session_tokens(self) -> int:
        """Committed tokens of all sessions here: what keeps the replica busy."""
        return sum(self.session_lens.values())

    def mark_draining(self) -> None:
        """It said that it shuts down: no more work for it until it has come back."""
        self.is_draining = True
        self._pool.refresh()

    async def measured(self) -> None:
        """Returns when the replica has measured itself, if it does now."""
        if self._measuring is not None:
            await asyncio.wait({self._measuring})

    async def close(self) -> None:
        """Closes the connection."""
        if self._measuring is not None:
            self._measuring.cancel()
        await self.client.close()

    def _on_change(self) -> None:
        if self._measuring is not None:
            self._measuring.cancel()
            self._measuring = None
        if self.client.connected.is_set():
            self._measuring = asyncio.create_task(self._measure())
        self._pool.refresh()

    async def _measure(self) -> None:
        """Asks for the step times, a few times where it must: requests come first."""
        for wait_s in _WARMUP_WAITS_S:
            await asyncio.sleep(wait_s)
            try:
                response = await self.stub.Warmup(llm_pb2.LlmServiceWarmupRequest(), timeout=_WARMUP_TIMEOUT_S)
            except grpc.aio.AioRpcError as error:
                logger.warning("%s: no step times: %s", self.client.address, error_from_rpc(error))
                continue
            self.row_times.learn_measured([(time.num_tokens, time.step_ms) for time in response.step_times])
            found = {time.num_tokens: round(time.step_ms, 1) for time in response.step_times}
            if found:
                logger.info("%s: step times in ms by rows: %s", self.client.address, found)
            if response.is_complete:
                return

    async def probe(self) -> None:
        """Whether it gives a sign of life. It does so also while it computes; one that is stopped or cut off does not."""
        if not self.client.connected.is_set():
            return
        try:
            await self.stub.GetLoad(llm_pb2.LlmServiceGetLoadRequest(), timeout=_PROBE_TIMEOUT_S)
        except grpc.aio.AioRpcError:
            if self.is_answering:
                logger.warning("%s: does not answer; new requests go elsewhere", self.client.address)
            self.is_answering = False
        else:
            self.is_answering = True

    async def _check(self, channel: grpc.aio.Channel) -> None:
        try:
            info = await self.stub.GetModelInfo(llm_pb2.LlmServiceGetModelInfoRequest(), timeout=_INFO_TIMEOUT_S)
        except grpc.aio.AioRpcError as error:
            raise error_from_rpc(error) from error
        await self._pool.accept(info, self.stub)
        self.is_draining, self.is_answering = False, True


class LlmPool:
    """All LLM replicas."""

    def __init__(self, addresses: Sequence[str]) -> None:
        self.model: ServedModel | None = None
        self._usable = asyncio.Event()
        self._accepting = asyncio.Lock()
        self._probing: asyncio.Task[None] | None = None
        self._on_change: Callable[[bool], None] = lambda is_usable: None
        self.replicas = tuple(LlmReplica(ReplicaAddress(address), self) for address in addresses)

    @property
    def is_usable(self) -> bool:
        """Whether any replica is."""
        return self._usable.is_set()

    def start(self, on_change: Callable[[bool], None]) -> None:
        """Connects in the background; ``on_change`` is told when the first replica comes and when the last one goes."""
        self._on_change = on_change
        for replica in self.replicas:
            replica.client.start()
        if len(self.replicas) > 1:
            self._probing = asyncio.create_task(self._probe())

    async def _probe(self) -> None:
        while True:
            await asyncio.gather(*(replica.probe() for replica in self.replicas), asyncio.sleep(_PROBE_INTERVAL_S))

    async def close(self) -> None:
        """Closes all connections."""
        if self._probing is not None:
            self._probing.cancel()
            await asyncio.gather(self._probing, return_exceptions=True)
        await asyncio.gather(*(replica.close() for replica in self.replicas))

    def refresh(self) -> None:
        """Called whenever a replica came or went."""
        is_usable = any(replica.is_usable for replica in self.replicas)
        if is_usable == self._usable.is_set():
            return
        if is_usable:
            self._usable.set()
        else:
            self._usable.clear()
        self._on_change(is_usable)

    async def accept(self, info: llm_pb2.LlmServiceGetModelInfoResponse, stub: LlmServiceAsyncStub) -> None:
        """Learns the model from the first replica. Raises ``InternalError`` for one with another model, or with other bits."""
        wire.check_protocol_version(info.protocol_version)
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
        model = self.model
        # Another dtype or end of sequence would change outputs in mid-stream.
        ours = (
            model.name,
            model.architecture,
            model.vocab_size,
            model.dtype,
            model.eos_token_ids,
            model.chat_end_token_ids,
            model.tokenizer.vocab_sha256,
            _shown(model.recommended_sampling),
        )
        theirs = (
            info.model, info.architecture, info.vocab_size, info.dtype, tuple(info.eos_token_ids),
            tuple(info.chat_end_token_ids), info.vocab_sha256, _shown(info.recommended_sampling),
        )  # fmt: skip
        if ours != theirs:
            raise InternalError(f"it serves {theirs}, but this router serves {ours}; restart the router to change that")
        if model.numerics != tuple(info.numerics):
            theirs_only = [fact for fact in info.numerics if fact not in model.numerics]
            ours_only = [fact for fact in model.numerics if fact not in info.numerics]
            raise InternalError(
                f"its outputs may have other bits: it has {', '.join(theirs_only)}, this router serves {', '.join(ours_only)}; "
                "give it the same, or restart the router to change that"
            )
        if info.max_model_len < model.context_len:
            raise InternalError(
                f"its context is {info.max_model_len} tokens, this router promises {model.context_len}; give it a larger "
                "--max-model-len or restart the router"
            )

    async def measured(self, timeout_s: float) -> None:
        """A moment for the replicas that are there to measure themselves: with a new session they would stop."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                await asyncio.gather(*(replica.measured() for replica in self.replicas))

    def load_of(self, session_id: str, num_requests: int = 0) -> ReplicaLoad:
        """What shares the passes of a session; of one that is nowhere yet, where it would come to.

        Of the router's ``num_requests`` those that are nowhere yet (they come in bursts) will be everywhere alike.
        """
        usable = [replica for replica in self.replicas if replica.is_usable] or self.replicas
        replica = self.replica_of(session_id) or self._least_busy(usable)
        num_coming = max(num_requests - sum(len(replica.session_lens) for replica in self.replicas), 0)
        num_sessions = len(replica.session_lens) + -(-num_coming // len(usable))
        return ReplicaLoad(replica.row_times, max(num_sessions, 1))

    async def wait_usable(self, timeout_s: float) -> None:
        """Raises ``NoReplicaError`` when none came in time."""
        try:
            await asyncio.wait_for(self._usable.wait(), timeout_s)
        except TimeoutError:
            raise NoReplicaError(f"no LLM replica was there for {timeout_s:.0f} s; try again later") from None

    async def place(self, session_id: str, wait_s: float) -> LlmReplica:
        """The replica for a session: the one it is on while that is usable, else the one with the fewest tokens."""
        until_s = time.monotonic() + wait_s
        while not (usable := [replica for replica in self.replicas if replica.is_usable]):
            await self.wait_usable(max(until_s - time.monotonic(), 0.0))
        here = self.replica_of(session_id)
        if here is not None and here.is_usable:
            return here
        self.forget(session_id)
        chosen = self._least_busy(usable)
        chosen.session_lens[session_id] = 0
        return chosen

    def _least_busy(self, replicas: Sequence[LlmReplica]) -> LlmReplica:
        return min(replicas, key=lambda r: (not r.is_answering, r.num_session_tokens, len(r.session_lens)))

    def replica_of(self, session_id: str) -> LlmReplica | None:
        """Where the session is."""
        return next((replica for replica in self.replicas if session_id in replica.session_lens), None)

    def forget(self, session_id: str) -> list[LlmReplica]:
        """The session is no longer anywhere; returns where it was."""
        return [r for r in self.replicas if r.session_lens.pop(session_id, None) is not None]


def _shown(sampling: token_tree_pb2.SamplingParams) -> dict[str, object]:
    return {field.name: value for field, value in sampling.ListFields()}

"""The Python client of a running router: ``Client`` for plain code, ``AsyncClient`` for asyncio. Knows gRPC, not torch.

Closing the iterator of ``generate`` (leaving its loop early) cancels the request everywhere. Every failure is a ``SpecGroveError``.
Calls are tried again as ``RetryPolicy`` says, an output that was cut off among them.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator, Iterable
from types import TracebackType
from typing import TYPE_CHECKING, Self, TypeVar, Unpack

from specgrove.client import wire
from specgrove.client.arguments import ChatMessages, Prompt
from specgrove.client.connections import AsyncConnection, Connection, metadata_of, warn_of_clear
from specgrove.client.output import Chunk, Completion, ModelInfo
from specgrove.client.retries import NO_RETRIES, Generation, RetryPolicy, Tries
from specgrove.client.stats import RouterStats
from specgrove.client.stats_wire import stats_from_proto
from specgrove.client.wire import ChatParams, GenerateParams
from specgrove.errors import SpecGroveError
from specgrove.serving.tls import TlsFiles
from specgrove.v1 import router_pb2

if TYPE_CHECKING:
    from specgrove.v1.router_pb2_grpc import RouterServiceAsyncStub, RouterServiceStub

_Response = TypeVar("_Response")
_DEFAULT_RETRIES = RetryPolicy()

_CONTROL_TIMEOUT_S = 30.0


class Client:
    """A connection to a router at ``address``: ``host:port`` or ``unix:/path``. Threads may share it. Use it in ``with``."""

    def __init__(
        self,
        address: str,
        *,
        tls: TlsFiles | None = None,
        api_key: str | None = None,
        retry: RetryPolicy | None = _DEFAULT_RETRIES,
    ) -> None:
        """With ``tls`` the connection is encrypted: ``TlsFiles()`` trusts public authorities, ``TlsFiles(ca=...)`` one's own.

        ``api_key`` goes with every call as ``authorization: Bearer KEY``, for a router or proxy that asks for one; without ``tls`` it is
        sent in clear, which is warned of where it leaves this machine. ``retry`` says how calls are tried again; ``None``: never.
        Raises ``ValueError`` and ``OSError`` where one of them can't be used.
        """
        self._metadata = metadata_of(api_key)
        self._retry = retry or NO_RETRIES
        self._connection = Connection(address, tls)
        self._make_async = functools.partial(AsyncClient, address, tls=tls, api_key=api_key, retry=retry)
        if api_key is not None and tls is None:
            warn_of_clear(address)

    def generate(self, prompt: Prompt, **params: Unpack[GenerateParams]) -> Generator[Chunk, None, None]:
        """Streams the output of raw text, a conversation, or token ids."""
        generation = Generation(prompt, params, self._retry)
        while True:
            try:
                yield from self._tried(generation)
                return
            except SpecGroveError as error:
                self._connection.wait(generation.delay_s(error, was_reached=self._connection.was_reached))

    def complete(self, prompt: Prompt, **params: Unpack[GenerateParams]) -> Completion:
        """The whole output at once."""
        return wire.completion_of(list(self.generate(prompt, **params)))

    def model_info(self) -> ModelInfo:
        """The model and the SSMs behind the router."""
        request = router_pb2.GetModelInfoRequest()
        response = self._answer(
            lambda router, timeout_s: router.GetModelInfo(request, timeout=timeout_s, metadata=self._metadata)
        )
        return wire.model_info_from_proto(response)

    def stats(self) -> RouterStats:
        """What the router has done since its start, and what it and the services behind it are busy with."""
        request = router_pb2.GetStatsRequest()
        response = self._answer(
            lambda router, timeout_s: router.GetStats(request, timeout=timeout_s, metadata=self._metadata)
        )
        return stats_from_proto(response)

    def tokenize(self, text_or_chat: str | ChatMessages, **params: Unpack[ChatParams]) -> tuple[int, ...]:
        """Token ids of text or of a conversation."""
        request = wire.tokenize_request(text_or_chat, params)
        response = self._answer(
            lambda router, timeout_s: router.Tokenize(request, timeout=timeout_s, metadata=self._metadata)
        )
        return tuple(response.token_ids)

    def detokenize(self, token_ids: Iterable[int], keep_special_tokens: bool = False) -> str:
        """Text of token ids."""
        request = wire.detokenize_request(token_ids, keep_special_tokens)
        response = self._answer(
            lambda router, timeout_s: router.Detokenize(request, timeout=timeout_s, metadata=self._metadata)
        )
        return response.text

    def _tried(self, generation: Generation) -> Generator[Chunk, None, None]:
        with self._connection.router() as router:
            call = router.Generate(generation.request, timeout=generation.begin_try(), metadata=self._metadata)
            try:
                for response in call:
                    yield from generation.rest_of(response)
            finally:
                call.cancel()

    def _answer(self, ask: Callable[[RouterServiceStub, float | None], _Response]) -> _Response:
        tries = Tries(self._retry, _CONTROL_TIMEOUT_S)
        while True:
            try:
                with self._connection.router() as router:
                    return ask(router, tries.timeout_s())
            except SpecGroveError as error:
                self._connection.wait(tries.delay_s(error, was_reached=self._connection.was_reached))

    def to_async(self) -> AsyncClient:
        """An ``AsyncClient`` of the same router, with a connection of its own."""
        return self._make_async()

    def close(self) -> None:
        """Cancels what is under way."""
        self._connection.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


class AsyncClient:
    """``Client`` for asyncio, to be used in ``async with``. May be made anywhere, and used in several event loops."""

    def __init__(
        self,
        address: str,
        *,
        tls: TlsFiles | None = None,
        api_key: str | None = None,
        retry: RetryPolicy | None = _DEFAULT_RETRIES,
    ) -> None:
        """As ``Client``."""
        self._metadata = metadata_of(api_key)
        self._retry = retry or NO_RETRIES
        self._connection = AsyncConnection(address, tls)
        if api_key is not None and tls is None:
            warn_of_clear(address)

    async def generate(self, prompt: Prompt, **params: Unpack[GenerateParams]) -> AsyncGenerator[Chunk, None]:
        """Streams the output of raw text, a conversation, or token ids."""
        generation = Generation(prompt, params, self._retry)
        while True:
            try:
                async with contextlib.aclosing(self._tried(generation)) as chunks:
                    async for chunk in chunks:
                        yield chunk
                return
            except SpecGroveError as error:
                await self._connection.wait(generation.delay_s(error, was_reached=self._connection.was_reached))

    async def complete(self, prompt: Prompt, **params: Unpack[GenerateParams]) -> Completion:
        """The whole output at once."""
        return wire.completion_of([chunk async for chunk in self.generate(prompt, **params)])

    async def model_info(self) -> ModelInfo:
        """The model and the SSMs behind the router."""
        request = router_pb2.GetModelInfoRequest()
        response = await self._answer(
            lambda router, timeout_s: router.GetModelInfo(request, timeout=timeout_s, metadata=self._metadata)
        )
        return wire.model_info_from_proto(response)

    async def stats(self) -> RouterStats:
        """What the router has done since its start, and what it and the services behind it are busy with."""
        request = router_pb2.GetStatsRequest()
        response = await self._answer(
            lambda router, timeout_s: router.GetStats(request, timeout=timeout_s, metadata=self._metadata)
        )
        return stats_from_proto(response)

    async def tokenize(self, text_or_chat: str | ChatMessages, **params: Unpack[ChatParams]) -> tuple[int, ...]:
        """Token ids of text or of a conversation."""
        request = wire.tokenize_request(text_or_chat, params)
        response = await self._answer(
            lambda router, timeout_s: router.Tokenize(request, timeout=timeout_s, metadata=self._metadata)
        )
        return tuple(response.token_ids)

    async def detokenize(self, token_ids: Iterable[int], keep_special_tokens: bool = False) -> str:
        """Text of token ids."""
        request = wire.detokenize_request(token_ids, keep_special_tokens)
        response = await self._answer(
            lambda router, timeout_s: router.Detokenize(request, timeout=timeout_s, metadata=self._metadata)
        )
        return response.text

    async def _tried(self, generation: Generation) -> AsyncGenerator[Chunk, None]:
        with self._connection.router() as router:
            call = router.Generate(generation.request, timeout=generation.begin_try(), metadata=self._metadata)
            try:
                async for response in call:
                    for chunk in generation.rest_of(response):
                        yield chunk
            finally:
                call.cancel()

    async def _answer(self, ask: Callable[[RouterServiceAsyncStub, float | None], Awaitable[_Response]]) -> _Response:
        tries = Tries(self._retry, _CONTROL_TIMEOUT_S)
        while True:
            try:
                with self._connection.router() as router:
                    return await ask(router, tries.timeout_s())
            except SpecGroveError as error:
                await self._connection.wait(tries.delay_s(error, was_reached=self._connection.was_reached))

    async def close(self) -> None:
        """Cancels what is under way."""
        await self._connection.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()

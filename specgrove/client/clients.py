"""The Python client of a running router: ``Client`` for plain code, ``AsyncClient`` for asyncio. Knows gRPC, not torch.

Closing the iterator of ``generate`` (leaving its loop early) cancels the request everywhere. Every failure is a ``SpecGroveError``.
Calls are tried again as ``RetryPolicy`` says, at each address in turn; an output that was cut off goes on where it was.
"""

from __future__ import annotations

import contextlib
import copy
import functools
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator, Iterable
from types import TracebackType
from typing import TYPE_CHECKING, Self, TypeVar, Unpack

from specgrove.client import answers, wire
from specgrove.client.arguments import ChatMessages, Prompt
from specgrove.client.connections import AsyncConnection, Connection, metadata_of, warn_of_clear
from specgrove.client.output import Chunk, Completion, ModelInfo
from specgrove.client.retries import Generation, RetryPolicy, Tries, policy_of
from specgrove.client.routers import Addresses, Routers, addresses_of
from specgrove.client.stats import RouterStats
from specgrove.client.stats_wire import stats_from_proto
from specgrove.client.wire import ChatParams, GenerateParams
from specgrove.errors import SpecGroveError
from specgrove.serving.api_keys import KEY_NAME_METADATA
from specgrove.serving.tls import TlsFiles
from specgrove.v1 import router_pb2

if TYPE_CHECKING:
    from specgrove.v1.router_pb2_grpc import RouterServiceAsyncStub, RouterServiceStub

_Response = TypeVar("_Response")
_DEFAULT_RETRIES = RetryPolicy()

_CONTROL_TIMEOUT_S = 30.0


class Client:
    """A connection to a router at ``address``: ``host:port`` or ``unix:/path``. Threads may share it. Use it in ``with``.

    Several addresses, ``"host1:50051,host2:50051"`` or a list, are of routers with the same model: where one is gone the next goes on.
    """

    def __init__(
        self,
        address: Addresses,
        *,
        tls: TlsFiles | None = None,
        api_key: str | None = None,
        retry: RetryPolicy | None = _DEFAULT_RETRIES,
    ) -> None:
        """With ``tls`` the connection is encrypted: ``TlsFiles()`` trusts public authorities, ``TlsFiles(ca=...)`` one's own.

        ``api_key`` goes with every call as ``authorization: Bearer KEY``, for a router or proxy that asks for one; without ``tls`` it is
        sent in clear, which is warned of where it leaves this machine. ``retry`` says how calls are tried again; ``None``: never, and
        not at another address either.
        Raises ``ValueError`` and ``OSError`` where one of them can't be used.
        """
        self._metadata = metadata_of(api_key)
        self._retry = policy_of(retry)
        addresses = addresses_of(address)
        self._routers = Routers([Connection(one, tls) for one in addresses])
        self._make_async = functools.partial(AsyncClient, addresses, tls=tls, api_key=api_key, retry=retry)
        if api_key is not None and tls is None:
            warn_of_clear(addresses)

    def generate(self, prompt: Prompt, **params: Unpack[GenerateParams]) -> Generator[Chunk, None, None]:
        """Streams the output of raw text, a conversation, or token ids."""
        generation = Generation(prompt, params, self._retry, num_addresses=len(self._routers.all))
        while True:
            connection = self._routers.current
            try:
                yield from self._tried(generation, connection)
                return
            except SpecGroveError as error:
                delay_s = generation.delay_s(error, was_reached=self._routers.was_reached)
            self._routers.leave(connection)
            connection.wait(delay_s)

    def complete(self, prompt: Prompt, **params: Unpack[GenerateParams]) -> Completion:
        """The whole output at once."""
        return answers.completion_of(list(self.generate(prompt, **params)))

    def model_info(self) -> ModelInfo:
        """The model and the SSMs behind the router."""
        request = router_pb2.GetModelInfoRequest()
        response = self._answer(
            lambda router, timeout_s: router.GetModelInfo(request, timeout=timeout_s, metadata=self._metadata)
        )
        return answers.model_info_from_proto(response)

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

    def _tried(self, generation: Generation, connection: Connection) -> Generator[Chunk, None, None]:
        with connection.router(is_stream=True) as router:
            call = router.Generate(generation.request, timeout=generation.begin_try(), metadata=self._metadata)
            try:
                for response in call:
                    yield from generation.rest_of(response)
            finally:
                call.cancel()

    def _answer(self, ask: Callable[[RouterServiceStub, float | None], _Response]) -> _Response:
        tries = Tries(self._retry, _CONTROL_TIMEOUT_S, num_addresses=len(self._routers.all))
        while True:
            connection = self._routers.current
            try:
                with connection.router() as router:
                    return ask(router, tries.timeout_s())
            except SpecGroveError as error:
                delay_s = tries.delay_s(error, was_reached=self._routers.was_reached)
            self._routers.leave(connection)
            connection.wait(delay_s)

    def to_async(self) -> AsyncClient:
        """An ``AsyncClient`` of the same routers, with connections of its own."""
        return self._make_async()

    def close(self) -> None:
        """Cancels what is under way."""
        for connection in self._routers.all:
            connection.close()

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
        address: Addresses,
        *,
        tls: TlsFiles | None = None,
        api_key: str | None = None,
        retry: RetryPolicy | None = _DEFAULT_RETRIES,
    ) -> None:
        """As ``Client``."""
        self._metadata = metadata_of(api_key)
        self._retry = policy_of(retry)
        addresses = addresses_of(address)
        self._routers = Routers([AsyncConnection(one, tls) for one in addresses])
        if api_key is not None and tls is None:
            warn_of_clear(addresses)

    async def generate(self, prompt: Prompt, **params: Unpack[GenerateParams]) -> AsyncGenerator[Chunk, None]:
        """Streams the output of raw text, a conversation, or token ids."""
        generation = Generation(prompt, params, self._retry, num_addresses=len(self._routers.all))
        while True:
            connection = self._routers.current
            try:
                async with contextlib.aclosing(self._tried(generation, connection)) as chunks:
                    async for chunk in chunks:
                        yield chunk
                return
            except SpecGroveError as error:
                delay_s = generation.delay_s(error, was_reached=self._routers.was_reached)
            self._routers.leave(connection)
            await connection.wait(delay_s)

    async def complete(self, prompt: Prompt, **params: Unpack[GenerateParams]) -> Completion:
        """The whole output at once."""
        return answers.completion_of([chunk async for chunk in self.generate(prompt, **params)])

    async def model_info(self) -> ModelInfo:
        """The model and the SSMs behind the router."""
        request = router_pb2.GetModelInfoRequest()
        response = await self._answer(
            lambda router, timeout_s: router.GetModelInfo(request, timeout=timeout_s, metadata=self._metadata)
        )
        return answers.model_info_from_proto(response)

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

    async def _tried(self, generation: Generation, connection: AsyncConnection) -> AsyncGenerator[Chunk, None]:
        with connection.router() as router:
            call = router.Generate(generation.request, timeout=generation.begin_try(), metadata=self._metadata)
            try:
                async for response in call:
                    for chunk in generation.rest_of(response):
                        yield chunk
            finally:
                call.cancel()

    async def _answer(self, ask: Callable[[RouterServiceAsyncStub, float | None], Awaitable[_Response]]) -> _Response:
        tries = Tries(self._retry, _CONTROL_TIMEOUT_S, num_addresses=len(self._routers.all))
        while True:
            connection = self._routers.current
            try:
                with connection.router() as router:
                    return await ask(router, tries.timeout_s())
            except SpecGroveError as error:
                delay_s = tries.delay_s(error, was_reached=self._routers.was_reached)
            self._routers.leave(connection)
            await connection.wait(delay_s)

    def for_key(self, name: str) -> AsyncClient:
        """Over the same connections, for requests that count as those of the API key of this name.

        Believed at a router's ``--local-address`` alone. Close the first client, not this one.
        """
        other = copy.copy(self)
        other._metadata = (*self._metadata, (KEY_NAME_METADATA, name))
        return other

    async def close(self) -> None:
        """Cancels what is under way."""
        for connection in self._routers.all:
            await connection.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()

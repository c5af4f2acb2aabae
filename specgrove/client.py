"""The Python client of a running router: ``Client`` for plain code, ``AsyncClient`` for asyncio. Knows gRPC, not torch.

Closing the iterator of ``generate`` (leaving its loop early) cancels the request everywhere. Every failure is a ``SpecGroveError``.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Generator, Iterable
from types import TracebackType
from typing import Self, Unpack

from specgrove import client_wire
from specgrove.client_arguments import ChatMessages, Prompt, timeout_of
from specgrove.client_connections import AsyncConnection, Connection, metadata_of
from specgrove.client_wire import ChatParams, GenerateParams
from specgrove.output import Chunk, Completion, ModelInfo
from specgrove.serving.address import TlsFiles
from specgrove.v1 import router_pb2

_CONTROL_TIMEOUT_S = 30.0


class Client:
    """A connection to a router at ``address``: ``host:port`` or ``unix:/path``. Threads may share it. Use it in ``with``."""

    def __init__(self, address: str, *, tls: TlsFiles | None = None, token: str | None = None) -> None:
        """With ``tls`` the connection is encrypted: ``TlsFiles()`` trusts public authorities, ``TlsFiles(ca=...)`` one's own.

        ``token`` goes with every call as ``authorization: Bearer TOKEN``, for a proxy that asks for one; without ``tls`` it is
        sent in clear. Raises ``ValueError`` and ``OSError`` where one of them can't be used.
        """
        self._metadata = metadata_of(token)
        self._connection = Connection(address, tls)

    def generate(self, prompt: Prompt, **params: Unpack[GenerateParams]) -> Generator[Chunk, None, None]:
        """Streams the output of raw text, a conversation, or token ids."""
        request = client_wire.request_to_proto(prompt, **params)
        timeout_s = timeout_of(params.get("timeout_s"))
        with self._connection.router() as router:
            call = router.Generate(request, timeout=timeout_s, metadata=self._metadata)
            try:
                for response in call:
                    yield client_wire.chunk_from_proto(response)
            finally:
                call.cancel()

    def complete(self, prompt: Prompt, **params: Unpack[GenerateParams]) -> Completion:
        """The whole output at once."""
        return client_wire.completion_of(list(self.generate(prompt, **params)))

    def model_info(self) -> ModelInfo:
        """The model and the SSMs behind the router."""
        request = router_pb2.GetModelInfoRequest()
        with self._connection.router() as router:
            response = router.GetModelInfo(request, timeout=_CONTROL_TIMEOUT_S, metadata=self._metadata)
        return client_wire.model_info_from_proto(response)

    def tokenize(self, text_or_chat: str | ChatMessages, **params: Unpack[ChatParams]) -> tuple[int, ...]:
        """Token ids of text or of a conversation."""
        request = client_wire.tokenize_request(text_or_chat, params)
        with self._connection.router() as router:
            response = router.Tokenize(request, timeout=_CONTROL_TIMEOUT_S, metadata=self._metadata)
        return tuple(response.token_ids)

    def detokenize(self, token_ids: Iterable[int], keep_special_tokens: bool = False) -> str:
        """Text of token ids."""
        request = client_wire.detokenize_request(token_ids, keep_special_tokens)
        with self._connection.router() as router:
            return router.Detokenize(request, timeout=_CONTROL_TIMEOUT_S, metadata=self._metadata).text

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

    def __init__(self, address: str, *, tls: TlsFiles | None = None, token: str | None = None) -> None:
        """As ``Client``."""
        self._metadata = metadata_of(token)
        self._connection = AsyncConnection(address, tls)

    async def generate(self, prompt: Prompt, **params: Unpack[GenerateParams]) -> AsyncGenerator[Chunk, None]:
        """Streams the output of raw text, a conversation, or token ids."""
        request = client_wire.request_to_proto(prompt, **params)
        timeout_s = timeout_of(params.get("timeout_s"))
        with self._connection.router() as router:
            call = router.Generate(request, timeout=timeout_s, metadata=self._metadata)
            try:
                async for response in call:
                    yield client_wire.chunk_from_proto(response)
            finally:
                call.cancel()

    async def complete(self, prompt: Prompt, **params: Unpack[GenerateParams]) -> Completion:
        """The whole output at once."""
        return client_wire.completion_of([chunk async for chunk in self.generate(prompt, **params)])

    async def model_info(self) -> ModelInfo:
        """The model and the SSMs behind the router."""
        request = router_pb2.GetModelInfoRequest()
        with self._connection.router() as router:
            response = await router.GetModelInfo(request, timeout=_CONTROL_TIMEOUT_S, metadata=self._metadata)
        return client_wire.model_info_from_proto(response)

    async def tokenize(self, text_or_chat: str | ChatMessages, **params: Unpack[ChatParams]) -> tuple[int, ...]:
        """Token ids of text or of a conversation."""
        request = client_wire.tokenize_request(text_or_chat, params)
        with self._connection.router() as router:
            response = await router.Tokenize(request, timeout=_CONTROL_TIMEOUT_S, metadata=self._metadata)
        return tuple(response.token_ids)

    async def detokenize(self, token_ids: Iterable[int], keep_special_tokens: bool = False) -> str:
        """Text of token ids."""
        request = client_wire.detokenize_request(token_ids, keep_special_tokens)
        with self._connection.router() as router:
            response = await router.Detokenize(request, timeout=_CONTROL_TIMEOUT_S, metadata=self._metadata)
        return response.text

    async def close(self) -> None:
        """Cancels what is under way."""
        await self._connection.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()

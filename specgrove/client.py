"""The Python client of a running router: ``Client`` for plain code, ``AsyncClient`` for asyncio. Knows gRPC, not torch.

Closing the iterator of ``generate`` (leaving its loop early) cancels the request everywhere. Every failure is a ``SpecGroveError``.
"""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator, Generator, Iterable
from types import TracebackType
from typing import Self, Unpack, cast

import grpc

from specgrove import client_wire
from specgrove.client_arguments import ChatMessages, Prompt, timeout_of
from specgrove.client_wire import ChatParams, GenerateParams
from specgrove.errors import SpecGroveError
from specgrove.output import Chunk, Completion, ModelInfo
from specgrove.serving.address import TlsFiles, channel_credentials, client_channel_options
from specgrove.serving.status import error_from_rpc
from specgrove.v1 import router_pb2, router_pb2_grpc

_CONTROL_TIMEOUT_S = 30.0


class Client:
    """A connection to a router at ``address``: ``host:port`` or ``unix:/path``. Threads may share it. Use it in ``with``."""

    def __init__(self, address: str, *, tls: TlsFiles | None = None, token: str | None = None) -> None:
        """With ``tls`` the connection is encrypted: ``TlsFiles()`` trusts public authorities, ``TlsFiles(ca=...)`` one's own.

        ``token`` goes with every call as ``authorization: Bearer TOKEN``, for a proxy that asks for one; without ``tls`` it is
        sent in clear.
        """
        self._channel = (
            grpc.insecure_channel(address, options=client_channel_options())
            if tls is None
            else grpc.secure_channel(address, channel_credentials(tls), options=client_channel_options())
        )
        self._metadata = _metadata_of(token)
        self._router = router_pb2_grpc.RouterServiceStub(self._channel)

    def generate(self, prompt: Prompt, **params: Unpack[GenerateParams]) -> Generator[Chunk, None, None]:
        """Streams the output of raw text, a conversation, or token ids."""
        request = client_wire.request_to_proto(prompt, **params)
        call = self._router.Generate(request, timeout=timeout_of(params.get("timeout_s")), metadata=self._metadata)
        try:
            for response in call:
                yield client_wire.chunk_from_proto(response)
        except grpc.RpcError as error:
            raise _error_of(error) from error
        finally:
            call.cancel()

    def complete(self, prompt: Prompt, **params: Unpack[GenerateParams]) -> Completion:
        """The whole output at once."""
        return client_wire.completion_of(list(self.generate(prompt, **params)))

    def model_info(self) -> ModelInfo:
        """The model and the SSMs behind the router."""
        try:
            response = self._router.GetModelInfo(
                router_pb2.GetModelInfoRequest(), timeout=_CONTROL_TIMEOUT_S, metadata=self._metadata
            )
        except grpc.RpcError as error:
            raise _error_of(error) from error
        return client_wire.model_info_from_proto(response)

    def tokenize(self, text_or_chat: str | ChatMessages, **params: Unpack[ChatParams]) -> tuple[int, ...]:
        """Token ids of text or of a conversation."""
        request = client_wire.tokenize_request(text_or_chat, params)
        try:
            return tuple(self._router.Tokenize(request, timeout=_CONTROL_TIMEOUT_S, metadata=self._metadata).token_ids)
        except grpc.RpcError as error:
            raise _error_of(error) from error

    def detokenize(self, token_ids: Iterable[int], keep_special_tokens: bool = False) -> str:
        """Text of token ids."""
        request = client_wire.detokenize_request(token_ids, keep_special_tokens)
        try:
            return self._router.Detokenize(request, timeout=_CONTROL_TIMEOUT_S, metadata=self._metadata).text
        except grpc.RpcError as error:
            raise _error_of(error) from error

    def close(self) -> None:
        """Cancels what is under way."""
        self._channel.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


class AsyncClient:
    """``Client`` for asyncio. Make it inside the running event loop; use it in ``async with``."""

    def __init__(self, address: str, *, tls: TlsFiles | None = None, token: str | None = None) -> None:
        """As ``Client``."""
        self._channel = (
            grpc.aio.insecure_channel(address, options=client_channel_options())
            if tls is None
            else grpc.aio.secure_channel(address, channel_credentials(tls), options=client_channel_options())
        )
        self._metadata = _metadata_of(token)
        self._router = router_pb2_grpc.RouterServiceStub(self._channel)

    async def generate(self, prompt: Prompt, **params: Unpack[GenerateParams]) -> AsyncGenerator[Chunk, None]:
        """Streams the output of raw text, a conversation, or token ids."""
        request = client_wire.request_to_proto(prompt, **params)
        call = self._router.Generate(request, timeout=timeout_of(params.get("timeout_s")), metadata=self._metadata)
        try:
            async for response in call:
                yield client_wire.chunk_from_proto(response)
        except grpc.aio.AioRpcError as error:
            raise error_from_rpc(error) from error
        finally:
            call.cancel()

    async def complete(self, prompt: Prompt, **params: Unpack[GenerateParams]) -> Completion:
        """The whole output at once."""
        return client_wire.completion_of([chunk async for chunk in self.generate(prompt, **params)])

    async def model_info(self) -> ModelInfo:
        """The model and the SSMs behind the router."""
        try:
            response = await self._router.GetModelInfo(
                router_pb2.GetModelInfoRequest(), timeout=_CONTROL_TIMEOUT_S, metadata=self._metadata
            )
        except grpc.aio.AioRpcError as error:
            raise error_from_rpc(error) from error
        return client_wire.model_info_from_proto(response)

    async def tokenize(self, text_or_chat: str | ChatMessages, **params: Unpack[ChatParams]) -> tuple[int, ...]:
        """Token ids of text or of a conversation."""
        request = client_wire.tokenize_request(text_or_chat, params)
        try:
            return tuple(
                (await self._router.Tokenize(request, timeout=_CONTROL_TIMEOUT_S, metadata=self._metadata)).token_ids
            )
        except grpc.aio.AioRpcError as error:
            raise error_from_rpc(error) from error

    async def detokenize(self, token_ids: Iterable[int], keep_special_tokens: bool = False) -> str:
        """Text of token ids."""
        request = client_wire.detokenize_request(token_ids, keep_special_tokens)
        try:
            return (await self._router.Detokenize(request, timeout=_CONTROL_TIMEOUT_S, metadata=self._metadata)).text
        except grpc.aio.AioRpcError as error:
            raise error_from_rpc(error) from error

    async def close(self) -> None:
        """Cancels what is under way."""
        await self._channel.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()


def _metadata_of(token: str | None) -> tuple[tuple[str, str], ...]:
    if token is None:
        return ()
    if not re.fullmatch(r"[!-~]+", token):
        # Not shown: it is a secret, even where it is wrong.
        raise ValueError("a token must be printable ASCII characters without spaces")
    return (("authorization", f"Bearer {token}"),)


def _error_of(error: grpc.RpcError) -> SpecGroveError:
    # What plain stubs raise has the methods of AioRpcError, but no type in common with it.
    return error_from_rpc(cast(grpc.aio.AioRpcError, error))

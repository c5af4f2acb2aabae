"""The HTTP API of a suite, as a batch uses it: where it is, whether it is there, and one request with its tries."""

from __future__ import annotations

import asyncio
import json
import ssl
from dataclasses import dataclass
from types import TracebackType
from typing import Self

import httpx2

from specgrove.addresses import is_unix, socket_path
from specgrove.batch.answers_file import BatchAnswer
from specgrove.batch.requests_file import BatchRequest
from specgrove.client.retries import RetryPolicy, Tries
from specgrove.errors import DEFAULT_RETRY_DELAY_MS, ResourceExhaustedError, SpecGroveError, UnavailableError
from specgrove.serving.tls import TlsFiles

_CONNECT_TIMEOUT_S = 30.0
# An output may take as long as it takes; who runs a batch has time.
_TIMEOUT = httpx2.Timeout(None, connect=_CONNECT_TIMEOUT_S)
_RETRIES = RetryPolicy(max_num_retries=10)
# Of a body that is written here: whatever JSON a line has (NaN, half a character), the API says what it thinks of it.
_IS_JSON = {"content-type": "application/json"}


@dataclass(frozen=True, slots=True)
class HttpPlace:
    """Where the API listens, and how it is reached."""

    address: str
    tls: TlsFiles | None = None
    api_key: str | None = None

    @property
    def url(self) -> str:
        """What the paths of the API come after."""
        scheme = "http" if self.tls is None else "https"
        return f"{scheme}://{'localhost' if is_unix(self.address) else self.address}"


class HttpApi:
    """One suite's. Use it in ``async with``."""

    def __init__(self, place: HttpPlace, num_at_once: int) -> None:
        """Raises ``OSError`` where the files of TLS can't be used."""
        self._place = place
        headers = {} if place.api_key is None else {"authorization": f"Bearer {place.api_key}"}
        transport = httpx2.AsyncHTTPTransport(
            verify=_verification(place.tls),
            uds=str(socket_path(place.address)) if is_unix(place.address) else None,
            limits=httpx2.Limits(max_connections=num_at_once, max_keepalive_connections=num_at_once),
            trust_env=False,
        )
        self._client = httpx2.AsyncClient(
            base_url=place.url, headers=headers, transport=transport, timeout=_TIMEOUT, trust_env=False
        )

    async def check(self) -> None:
        """Raises ``UnavailableError`` where no such API answers."""
        try:
            response = await self._client.get("/v1/models")
        except httpx2.RemoteProtocolError as error:
            raise UnavailableError(
                f"what listens at {self._place.address} does not speak HTTP: give the address of the suite's HTTP API, "
                "which `specgrove serve --http-address` sets"
            ) from error
        except httpx2.HTTPError as error:
            raise UnavailableError(
                f"no HTTP API answers at {self._place.address} ({error}): `specgrove serve --http-address` starts one"
            ) from error
        if not response.is_success:
            raise UnavailableError(f"the HTTP API at {self._place.address} says: {_told(response)}")

    async def answer(self, request: BatchRequest) -> BatchAnswer:
        """Whatever becomes of it; a router that is full, or gone for a while, is asked again."""
        tries = Tries(_RETRIES, None)
        while True:
            response, failure = await self._tried(request)
            if failure is None:
                break
            try:
                delay_s = tries.delay_s(failure, was_reached=True)
            except SpecGroveError as error:
                if response is None:
                    return BatchAnswer(request.custom_id, error=str(error))
                break
            await asyncio.sleep(delay_s)
        assert response is not None
        try:
            body = response.json()
        except ValueError:
            body = None
        if not isinstance(body, dict):
            return BatchAnswer(request.custom_id, error=f"status {response.status_code}, with no JSON object")
        request_id = response.headers.get("x-request-id", "")
        return BatchAnswer(request.custom_id, response.status_code, body, request_id=request_id)

    async def _tried(self, request: BatchRequest) -> tuple[httpx2.Response | None, SpecGroveError | None]:
        """The response, and what is worth another try."""
        try:
            response = await self._client.post(request.url, content=json.dumps(request.body), headers=_IS_JSON)
        except httpx2.HTTPError as error:
            return None, UnavailableError(f"the connection was lost: {error or type(error).__name__}")
        match response.status_code:
            case 429:
                delay_ms = response.headers.get("retry-after-ms", "")
                told_ms = int(delay_ms) if delay_ms.isdecimal() else DEFAULT_RETRY_DELAY_MS
                return response, ResourceExhaustedError(_told(response), told_ms)
            case 503:
                return response, UnavailableError(_told(response))
            case _:
                return response, None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self._client.aclose()


def _told(response: httpx2.Response) -> str:
    try:
        return str(response.json()["error"]["message"])
    except (ValueError, KeyError, TypeError):
        return f"status {response.status_code}"


def _verification(tls: TlsFiles | None) -> ssl.SSLContext | bool:
    if tls is None:
        return False
    context = ssl.create_default_context(cafile=tls.ca)
    if tls.certificate is not None:
        context.load_cert_chain(tls.certificate, tls.private_key)
    return context

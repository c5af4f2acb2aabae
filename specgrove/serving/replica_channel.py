"""The channel from a router to one replica of a service, in clear or by TLS, and why it can't be connected.

Owned by a ``WorkStreamClient``. Invariant: a channel that is connected anew has the certificates of now; one in use is left alone.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator
from pathlib import Path

import grpc

from specgrove.addresses import ReplicaAddress, grpc_target, is_unix
from specgrove.errors import UnavailableError
from specgrove.serving.address import channel_options
from specgrove.serving.status import connection_cause, is_not_connected
from specgrove.serving.tls import SERVER_FLAGS, SERVICES_FLAGS, TlsFiles, channel_credentials, expired_on
from specgrove.serving.watched_files import WatchedFiles

TLS_CAUSE = "TLS: "
"""How a cause begins that is of the certificates for sure, and that time alone won't mend."""
_CLEAR_SERVICE = "WRONG_VERSION_NUMBER"
_WRONG_NAME = "Hostname Verification"
_EXPIRED = "certificate has expired"
_NOT_VERIFIED = "CERTIFICATE_VERIFY_FAILED"
# All that gRPC tells of a server that has ended the connection before it was one.
_HUNG_UP = "Socket closed"


@contextlib.contextmanager
def closed_is_away() -> Iterator[None]:
    """Around a call that its channel may be closed under: ``UnavailableError``, where grpc acts as if the caller had been cancelled."""
    try:
        yield
    except asyncio.CancelledError:
        task = asyncio.current_task()
        if task is None or task.cancelling():
            raise
        raise UnavailableError("the connection was closed") from None


class ServicesTls:
    """How a router connects to all its services. One per router."""

    def __init__(self, files: TlsFiles) -> None:
        """``files`` have an authority. Raises ``ValueError`` and ``OSError`` where they are no good."""
        self.files = files
        self._credentials = WatchedFiles(files.paths, lambda: channel_credentials(files, SERVICES_FLAGS))

    def credentials(self) -> grpc.ChannelCredentials:
        """Of the files as they are now; the same object while they don't change."""
        return self._credentials.newest()


class ReplicaChannel:
    """One replica's."""

    def __init__(self, address: ReplicaAddress, tls: ServicesTls | None) -> None:
        """Without ``tls``: in clear. Connects when it is first used."""
        self._address = address
        self._tls = tls
        self._credentials = None if tls is None else tls.credentials()
        self.current = self._open()
        """Another one after ``renew``."""

    async def renew(self) -> None:
        """For one that is not connected: takes the certificates of now, where they are others."""
        if self._tls is None or (newest := self._tls.credentials()) is self._credentials:
            return
        await self.current.close()
        self._credentials = newest
        self.current = self._open()

    async def close(self) -> None:
        """Ends the connection."""
        await self.current.close()

    def cause_of(self, details: str) -> str:
        """Why it can't be connected, of what gRPC says, in a line for people."""
        if self._tls is None:
            cause = connection_cause(details)
            asks = f"; if it asks for TLS, give {SERVICES_FLAGS.ca}"
            return cause + asks if is_not_connected(details) and cause == _HUNG_UP else cause
        return self._tls_cause(details, self._tls.files)

    @property
    def _name(self) -> str:
        """Which its certificate must bear. gRPC calls whatever is at a unix socket localhost."""
        named = "localhost" if is_unix(self._address.target) else self._address.target.rpartition(":")[0].strip("[]")
        return self._address.server_name or named

    def _open(self) -> grpc.aio.Channel:
        if self._credentials is None:
            return grpc.aio.insecure_channel(grpc_target(self._address.target), options=channel_options())
        options = [*channel_options(), ("grpc.ssl_target_name_override", self._name)]
        return grpc.aio.secure_channel(grpc_target(self._address.target), self._credentials, options=options)

    def _tls_cause(self, details: str, files: TlsFiles) -> str:
        if not is_not_connected(details):
            return details
        if _CLEAR_SERVICE in details:
            return f"{TLS_CAUSE}it speaks in clear; give it {SERVER_FLAGS.certificate} and {SERVER_FLAGS.private_key}"
        if _WRONG_NAME in details:
            return f"{TLS_CAUSE}its certificate is not for {self._name}"
        if _EXPIRED in details:
            return f"{TLS_CAUSE}its certificate has expired"
        if _NOT_VERIFIED in details:
            reason = details.partition(f"{_NOT_VERIFIED}: ")[2].partition(":")[0]
            return f"{TLS_CAUSE}its certificate is of no authority in {SERVICES_FLAGS.ca} {files.ca}: {reason}"
        if connection_cause(details) != _HUNG_UP:
            return connection_cause(details)
        if files.certificate is None:
            return f"it hung up; if it asks for a certificate, give {SERVICES_FLAGS.certificate}"
        if (expired := _expired_on(files.certificate)) is not None:
            return f"{TLS_CAUSE}it hung up; {SERVICES_FLAGS.certificate} {files.certificate} expired on {expired}"
        return (
            f"it hung up; its {SERVER_FLAGS.ca} must be the authority of {SERVICES_FLAGS.certificate}"
            f" {files.certificate}"
        )


def _expired_on(certificate: Path) -> str | None:
    """``None`` also for a file that is being exchanged just now, or that is none any more: what is in use was read before."""
    with contextlib.suppress(OSError, ValueError):
        return expired_on(certificate)
    return None

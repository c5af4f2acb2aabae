"""Servers that follow their certificates: each connection is made with the files as they are then. Connections in use stay as they are."""

from __future__ import annotations

import ssl
from typing import Any, Self

import grpc

from specgrove.serving.tls import TlsFiles, certificate_configuration, server_context
from specgrove.serving.watched_files import WatchedFiles


def server_credentials(tls: TlsFiles) -> grpc.ServerCredentials:
    """A gRPC server's. Raises ``ValueError`` and ``OSError`` where the files are no good now; later ones that are none change nothing."""
    files = WatchedFiles(tls.paths, lambda: certificate_configuration(tls))
    in_use = files.newest()

    def changed() -> grpc.ServerCertificateConfiguration | None:
        """Asked by gRPC's threads before every handshake."""
        nonlocal in_use
        if (newest := files.newest()) is in_use:
            return None
        in_use = newest
        return newest

    return grpc.dynamic_ssl_server_credentials(
        in_use,
        changed,  # type: ignore[arg-type]  # which says nothing of ``None`` for no change
        require_client_authentication=tls.ca is not None,
    )


class FollowingContext(ssl.SSLContext):
    """A context for servers of asyncio. One of OpenSSL never forgets an authority, so there is another for each set of files."""

    def __new__(cls, tls: TlsFiles) -> Self:
        return super().__new__(cls, ssl.PROTOCOL_TLS_SERVER)

    def __init__(self, tls: TlsFiles) -> None:
        """Raises ``ValueError`` and ``OSError`` where the files are no good now."""
        self._files = WatchedFiles(tls.paths, lambda: server_context(tls))

    def wrap_bio(self, *arguments: Any, **settings: Any) -> ssl.SSLObject:
        """Called by asyncio for every connection."""
        return self._files.newest().wrap_bio(*arguments, **settings)

"""Addresses, channel options and limits: what both ends of every connection agree on."""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from pathlib import Path

import grpc

from specgrove.addresses import ReplicaAddress

MAX_MESSAGE_BYTES = 16 * 1024 * 1024

Option = tuple[str, int]

# Between services: a peer that was stopped or cut off is noticed after 5 s + 5 s. A killed one on the same network at once, by its closed
# socket. gRPC waits for the answer to a ping as long as ``ping_timeout_ms`` says, 60 s by default, whatever ``keepalive_timeout_ms`` is.
_KEEPALIVE: tuple[Option, ...] = (
    ("grpc.keepalive_time_ms", 5_000),
    ("grpc.keepalive_timeout_ms", 5_000),
    ("grpc.http2.ping_timeout_ms", 5_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),
)

# Towards clients, whose networks may be slow and whose laptops sleep: a request of one that is gone holds its permit for a minute at most.
_PUBLIC_KEEPALIVE: tuple[Option, ...] = (
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 30_000),
    ("grpc.http2.ping_timeout_ms", 30_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),
)

# A server with gRPC's default policy closes a connection whose client pings more often than every 5 minutes, or without calls
# (https://github.com/grpc/grpc/blob/master/doc/keepalive.md). So does a proxy in front of a router.
_CLIENT_KEEPALIVE: tuple[Option, ...] = (
    ("grpc.keepalive_time_ms", 360_000),
    ("grpc.keepalive_timeout_ms", 20_000),
    ("grpc.keepalive_permit_without_calls", 0),
)


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """PEM files of one end. With ``ca`` a server asks its clients for certificates (mTLS), a client trusts only that CA.

    A client without ``ca`` trusts the authorities that gRPC comes with.
    """

    certificate: Path | None = None
    private_key: Path | None = None
    ca: Path | None = None


def server_options(
    max_request_bytes: int = MAX_MESSAGE_BYTES, max_num_streams: int | None = None, *, is_public: bool = False
) -> list[Option]:
    """Options of every server. Two servers on one port are an error, not a silent split of the traffic.

    ``max_num_streams`` is the number of calls of one connection at once: a gRPC client keeps further ones back until one ends.
    With ``is_public`` its peers are clients, else services.
    """
    return [
        *(_PUBLIC_KEEPALIVE if is_public else _KEEPALIVE),
        ("grpc.http2.min_ping_interval_without_data_ms", 1_000),
        ("grpc.http2.max_ping_strikes", 0),
        ("grpc.max_receive_message_length", max_request_bytes),
        ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
        ("grpc.so_reuseport", 0),
        *([] if max_num_streams is None else [("grpc.max_concurrent_streams", max_num_streams)]),
    ]


def channel_options(max_message_bytes: int = MAX_MESSAGE_BYTES) -> list[Option]:
    """Options of every channel between services: a peer that comes back is found within half a second."""
    return [
        *_KEEPALIVE,
        ("grpc.initial_reconnect_backoff_ms", 100),
        ("grpc.max_reconnect_backoff_ms", 500),
        ("grpc.max_receive_message_length", max_message_bytes),
        ("grpc.max_send_message_length", max_message_bytes),
        ("grpc.use_local_subchannel_pool", 1),
        ("grpc.enable_http_proxy", 0),
    ]


def client_channel_options(max_message_bytes: int = MAX_MESSAGE_BYTES) -> list[Option]:
    """Options of a client's channel to a router, or to a proxy in front of it: any gRPC server tolerates them."""
    return [
        *_CLIENT_KEEPALIVE,
        # gRPC's own ways lead to a pause of two minutes between two tries to connect.
        ("grpc.initial_reconnect_backoff_ms", 250),
        ("grpc.max_reconnect_backoff_ms", 4_000),
        ("grpc.max_receive_message_length", max_message_bytes),
        ("grpc.max_send_message_length", max_message_bytes),
        ("grpc.use_local_subchannel_pool", 1),
        ("grpc.enable_http_proxy", 0),
    ]


def open_channel(address: ReplicaAddress) -> grpc.aio.Channel:
    """A channel to one replica, in clear. Connects when it is first used."""
    return grpc.aio.insecure_channel(address.target, options=channel_options())


def channel_credentials(tls: TlsFiles) -> grpc.ChannelCredentials:
    """Credentials of a client. Raises ``ValueError`` for half a pair and files that are none, ``OSError`` for unreadable ones."""
    if (tls.certificate is None) != (tls.private_key is None):
        raise ValueError("a client's certificate and private key go together")
    ca, private_key, certificate = _read(tls.ca), _read(tls.private_key), _read(tls.certificate)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    if tls.certificate is not None and tls.private_key is not None:
        _check_pair(context, tls.certificate, tls.private_key, ("the certificate {}", "the private key {}"))
    if tls.ca is not None:
        _check_authorities(context, tls.ca, "the authority {}")
    return grpc.ssl_channel_credentials(ca, private_key, certificate)


def check_server_tls(tls: TlsFiles) -> None:
    """Raises ``ValueError`` where a server can't use the files, in the words of the router's flags."""
    if tls.certificate is None or tls.private_key is None:
        raise ValueError("--tls-certificate and --tls-private-key go together, and --tls-client-ca needs both")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    _check_pair(context, tls.certificate, tls.private_key, ("--tls-certificate {}", "--tls-private-key {}"))
    if tls.ca is not None:
        _check_authorities(context, tls.ca, "--tls-client-ca {}")


def server_credentials(tls: TlsFiles) -> grpc.ServerCredentials:
    """Credentials of a server; its certificate and private key must be there."""
    certificate, private_key = _read(tls.certificate), _read(tls.private_key)
    if certificate is None or private_key is None:
        raise ValueError("a TLS server needs a certificate and a private key")
    return grpc.ssl_server_credentials([(private_key, certificate)], _read(tls.ca), tls.ca is not None)


def _check_pair(context: ssl.SSLContext, certificate: Path, private_key: Path, named: tuple[str, str]) -> None:
    names = named[0].format(certificate), named[1].format(private_key)
    _check_pem(certificate, names[0], "CERTIFICATE")
    _check_pem(private_key, names[1], "PRIVATE KEY")
    try:
        # gRPC takes keys without a passphrase only; without one given here, the terminal would be asked for it.
        context.load_cert_chain(certificate, private_key, password="")
    except (ssl.SSLError, OSError) as error:
        raise ValueError(f"{names[0]} and {names[1]} are no pair of PEM files without a passphrase: {error}") from error


def _check_authorities(context: ssl.SSLContext, ca: Path, named: str) -> None:
    _check_pem(ca, named.format(ca), "CERTIFICATE")
    try:
        context.load_verify_locations(ca)
    except (ssl.SSLError, OSError) as error:
        raise ValueError(f"{named.format(ca)} is no PEM file with certificates: {error}") from error


def _check_pem(path: Path, named: str, holds: str) -> None:
    """OpenSSL tells neither which file is missing nor what it should be."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ValueError(f"{named}: {error.strerror}") from error
    if b"-----BEGIN " not in data:
        raise ValueError(f"{named} is no PEM file: it should hold a part that begins with -----BEGIN {holds}-----")


def _read(path: Path | None) -> bytes | None:
    return None if path is None else path.read_bytes()

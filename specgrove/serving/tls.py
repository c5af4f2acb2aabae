"""TLS: the files of both ends of a connection, what is wrong with them, and gRPC's credentials made of them."""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from pathlib import Path

import grpc


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """PEM files of one end. With ``ca`` a server asks its clients for certificates (mTLS), a client trusts only that CA.

    A client without ``ca`` trusts the authorities that gRPC comes with.
    """

    certificate: Path | None = None
    private_key: Path | None = None
    ca: Path | None = None


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


def server_tls(certificate: Path | None, private_key: Path | None, client_ca: Path | None) -> TlsFiles | None:
    """What a service's ``--tls-...`` give it, or ``None`` for a server in clear. Raises ``ValueError`` as ``check_server_tls``."""
    if certificate is private_key is client_ca is None:
        return None
    tls = TlsFiles(certificate, private_key, client_ca)
    check_server_tls(tls)
    return tls


def check_server_tls(tls: TlsFiles) -> None:
    """Raises ``ValueError`` where a server can't use the files, in the words of the services' flags."""
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

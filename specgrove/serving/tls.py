"""TLS: the files of both ends of a connection, and what is wrong with them, in the words of whoever was given them."""

from __future__ import annotations

import ssl
import time
from dataclasses import dataclass
from pathlib import Path

import grpc


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """PEM files of one end. With ``ca`` a server asks its clients for certificates (mTLS), a client trusts only that CA.

    A client without ``ca`` trusts the authorities that gRPC comes with. Paths may be given as texts. Raises ``ValueError`` for other types.
    """

    certificate: Path | None = None
    private_key: Path | None = None
    ca: Path | None = None

    def __post_init__(self) -> None:
        for name in ("certificate", "private_key", "ca"):
            value = getattr(self, name)
            if isinstance(value, str):
                object.__setattr__(self, name, Path(value))
            elif value is not None and not isinstance(value, Path):
                raise ValueError(f"{name} must be the path of a PEM file, got {type(value).__name__}")

    @property
    def paths(self) -> tuple[Path, ...]:
        """Those that there are."""
        return tuple(path for path in (self.certificate, self.private_key, self.ca) if path is not None)


@dataclass(frozen=True, slots=True)
class TlsNames:
    """What the three files are called in errors."""

    certificate: str = "the certificate"
    private_key: str = "the private key"
    ca: str = "the authority"


SERVER_FLAGS = TlsNames("--tls-certificate", "--tls-private-key", "--tls-client-ca")
SERVICES_FLAGS = TlsNames("--services-tls-certificate", "--services-tls-private-key", "--services-tls-ca")
"""Those of the router, as a client of the services behind it."""


def server_tls(certificate: Path | None, private_key: Path | None, client_ca: Path | None) -> TlsFiles | None:
    """What a service's ``--tls-...`` give it, or ``None`` for a server in clear. Raises ``ValueError``."""
    if certificate is private_key is client_ca is None:
        return None
    if certificate is None or private_key is None:
        raise ValueError("--tls-certificate and --tls-private-key go together, and --tls-client-ca needs both")
    tls = TlsFiles(certificate, private_key, client_ca)
    check_files(tls, SERVER_FLAGS)
    return tls


def services_tls(certificate: Path | None, private_key: Path | None, ca: Path | None) -> TlsFiles | None:
    """What the router's ``--services-tls-...`` give it, or ``None`` for services in clear. Raises ``ValueError``."""
    if certificate is private_key is ca is None:
        return None
    if ca is None:
        raise ValueError(
            f"{SERVICES_FLAGS.certificate} needs {SERVICES_FLAGS.ca}, the authority of the services' certificates"
        )
    tls = TlsFiles(certificate, private_key, ca)
    check_files(tls, SERVICES_FLAGS)
    return tls


def check_files(tls: TlsFiles, names: TlsNames) -> None:
    """Raises ``ValueError`` for half a pair, for files that are missing or no PEM, and for a certificate that has expired."""
    if (tls.certificate is None) != (tls.private_key is None):
        raise ValueError(f"{names.certificate} and {names.private_key} go together")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    if tls.certificate is not None and tls.private_key is not None:
        named = f"{names.certificate} {tls.certificate}"
        _check_pair(context, tls.certificate, tls.private_key, (named, f"{names.private_key} {tls.private_key}"))
        if (expired := expired_on(tls.certificate)) is not None:
            raise ValueError(f"{named}: expired on {expired}")
    if tls.ca is not None:
        _check_authorities(context, tls.ca, f"{names.ca} {tls.ca}")


def expired_on(certificate: Path) -> str | None:
    """The date, where it has passed. Of the first certificate of the file, which must be one."""
    # Python has no public way to ask for it before a peer has been verified.
    ends = str(ssl._ssl._test_decode_cert(str(certificate))["notAfter"])  # type: ignore[attr-defined]
    return ends if ssl.cert_time_to_seconds(ends) < time.time() else None


def channel_credentials(tls: TlsFiles, names: TlsNames = TlsNames()) -> grpc.ChannelCredentials:
    """Credentials of a client. Raises ``OSError`` for files that can't be read, ``ValueError`` as ``check_files``."""
    contents = [_content(path) for path in (tls.ca, tls.private_key, tls.certificate)]
    check_files(tls, names)
    return grpc.ssl_channel_credentials(*contents)


def certificate_configuration(tls: TlsFiles) -> grpc.ServerCertificateConfiguration:
    """What a gRPC server shows and trusts; its certificate and private key must be there. Raises as ``channel_credentials``."""
    check_files(tls, SERVER_FLAGS)
    assert tls.certificate is not None
    assert tls.private_key is not None
    pair = (tls.private_key.read_bytes(), tls.certificate.read_bytes())
    return grpc.ssl_server_certificate_configuration([pair], _content(tls.ca))


def server_context(tls: TlsFiles) -> ssl.SSLContext:
    """The same for servers of asyncio."""
    check_files(tls, SERVER_FLAGS)
    assert tls.certificate is not None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tls.certificate, tls.private_key, password="")
    if tls.ca is not None:
        context.load_verify_locations(tls.ca)
        context.verify_mode = ssl.CERT_REQUIRED
    return context


def _check_pair(context: ssl.SSLContext, certificate: Path, private_key: Path, names: tuple[str, str]) -> None:
    _check_pem(certificate, names[0], "CERTIFICATE")
    _check_pem(private_key, names[1], "PRIVATE KEY")
    try:
        # gRPC takes keys without a passphrase only; without one given here, the terminal would be asked for it.
        context.load_cert_chain(certificate, private_key, password="")
    except (ssl.SSLError, OSError) as error:
        raise ValueError(f"{names[0]} and {names[1]} are no pair of PEM files without a passphrase: {error}") from error


def _check_authorities(context: ssl.SSLContext, ca: Path, named: str) -> None:
    _check_pem(ca, named, "CERTIFICATE")
    try:
        context.load_verify_locations(ca)
    except (ssl.SSLError, OSError) as error:
        raise ValueError(f"{named} is no PEM file with certificates: {error}") from error


def _check_pem(path: Path, named: str, holds: str) -> None:
    """OpenSSL tells neither which file is missing nor what it should be."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ValueError(f"{named}: {error.strerror}") from error
    if b"-----BEGIN " not in data:
        raise ValueError(f"{named} is no PEM file: it should hold a part that begins with -----BEGIN {holds}-----")


def _content(path: Path | None) -> bytes | None:
    return None if path is None else path.read_bytes()

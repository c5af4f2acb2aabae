"""A certificate authority of one's own, with certificates for a server and a client, made by the openssl command."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from pathlib import Path

from specgrove.serving.tls import TlsFiles


@dataclass(frozen=True, slots=True)
class Certificates:
    """Both ends of a connection in which each shows the other a certificate."""

    server: TlsFiles
    client: TlsFiles


def make_certificates(folder: Path) -> Certificates:
    """For a server at ``localhost`` and ``127.0.0.1``."""
    ca, ca_key = folder / "ca.pem", folder / "ca.key"
    _openssl("req", "-x509", *_KEY, "-keyout", ca_key, "-out", ca, "-subj", "/CN=test authority", "-days", "2")
    names = folder / "names"
    names.write_text("subjectAltName=DNS:localhost,IP:127.0.0.1\n")
    for name in ("server", "client"):
        request, certificate = folder / f"{name}.csr", folder / f"{name}.pem"
        _openssl("req", *_KEY, "-keyout", folder / f"{name}.key", "-out", request, "-subj", f"/CN={name}")
        signing = ("-CA", ca, "-CAkey", ca_key, "-CAcreateserial", "-days", "2", "-extfile", names)
        _openssl("x509", "-req", "-in", request, "-out", certificate, *signing)
    return Certificates(
        server=TlsFiles(folder / "server.pem", folder / "server.key", ca),
        client=TlsFiles(folder / "client.pem", folder / "client.key", ca),
    )


_KEY = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")


def _openssl(*arguments: str | Path) -> None:
    subprocess.run(["openssl", *map(str, arguments)], check=True, capture_output=True)

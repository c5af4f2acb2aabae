"""Certificate authorities of one's own, and what they sign, by the openssl command; and a folder that changes as Kubernetes' secrets do."""

from __future__ import annotations

import os
import shutil
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
    """For a server at ``localhost`` and ``127.0.0.1``, and a client, of one authority."""
    authority = Authority(folder / "ca.pem")
    return Certificates(authority.issue(folder, "server"), authority.issue(folder, "client"))


class Authority:
    """Trusted by whoever has its file."""

    def __init__(self, path: Path) -> None:
        self.path, self._key = path, path.with_suffix(".key")
        subject = ("-subj", f"/CN=test authority {path.stem}", "-days", "2")
        _openssl("req", "-x509", *_KEY, "-keyout", self._key, "-out", path, *subject)

    def issue(
        self,
        folder: Path,
        name: str,
        hosts: str = "DNS:localhost,IP:127.0.0.1",
        *,
        num_days: int = 2,
        usages: tuple[str, ...] = (),
    ) -> TlsFiles:
        """``name.pem`` and ``name.key``, beside the authority itself. With less than 0 days it has expired.

        ``usages`` are cert-manager's words for what it may be used for; none: for all.
        """
        files = TlsFiles(folder / f"{name}.pem", folder / f"{name}.key", self.path)
        request, names = folder / f"{name}.csr", folder / f"{name}.names"
        extensions = [f"subjectAltName={hosts}", *(_EXTENSIONS[usage] for usage in usages)]
        names.write_text("\n".join(extensions))
        _openssl("req", *_KEY, "-keyout", str(files.private_key), "-out", request, "-subj", f"/CN={name}")
        signing = ("-CA", self.path, "-CAkey", self._key, "-CAcreateserial", "-days", str(num_days), "-extfile", names)
        _openssl("x509", "-req", "-in", request, "-out", str(files.certificate), *signing)
        return files


class SecretFolder:
    """A secret as Kubernetes mounts it: links to files behind the link ``..data``, which is turned to another folder when it changes."""

    _NAMES = ("tls.crt", "tls.key", "ca.crt")

    def __init__(self, folder: Path, files: TlsFiles) -> None:
        """Shows the content of ``files`` under its own names, ``self.files``."""
        self._folder, self._num_versions = folder, 0
        self.files = TlsFiles(*(folder / name for name in self._NAMES))
        folder.mkdir()
        for name in self._NAMES:
            (folder / name).symlink_to(f"..data/{name}")
        self.show(files)

    def show(self, files: TlsFiles) -> None:
        """From now on these, all at one moment."""
        data, turned = self._folder / "..data", self._folder / "..data_tmp"
        old = data.resolve() if data.is_symlink() else None
        self._num_versions += 1
        version = self._folder / f"..version_{self._num_versions}"
        version.mkdir()
        for name, path in zip(self._NAMES, files.paths, strict=True):
            shutil.copy(path, version / name)
        turned.symlink_to(version.name)
        os.replace(turned, data)  # noqa: PTH105
        if old is not None:
            shutil.rmtree(old)


_EXTENSIONS = {
    "digital signature": "keyUsage=critical,digitalSignature",
    "server auth": "extendedKeyUsage=serverAuth",
    "client auth": "extendedKeyUsage=clientAuth",
}
_KEY = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")


def _openssl(*arguments: str | Path) -> None:
    subprocess.run(["openssl", *map(str, arguments)], check=True, capture_output=True)

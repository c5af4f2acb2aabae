"""A Hugging Face hub of one model, as far as downloads ask it: for tests of what happens when a download is broken off."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import re
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

REVISION = "0" * 40


@dataclass
class FakeHub:
    """``files`` by name; those that end in .safetensors are large ones, kept by their SHA-256."""

    model: str
    files: Mapping[str, bytes]
    may_send: Callable[[str, int], bool] = lambda name, position: True
    """Asked before each block of a file, by its name and position; where it says no the connection is cut."""
    address: str = ""
    starts: list[tuple[str, int]] = field(default_factory=list)
    """Each transfer of a large file: its name, and the byte it began at."""

    def tree(self) -> list[dict[str, object]]:
        return [
            {"type": "file", "path": name, "size": len(content), "oid": hashlib.sha1(content).hexdigest()}
            | ({"lfs": {"size": len(content), "oid": _sha256(content), "pointerSize": 130}} if is_large(name) else {})
            for name, content in self.files.items()
        ]

    def info(self) -> dict[str, object]:
        siblings = [
            {"rfilename": name, "size": len(content), "blobId": hashlib.sha1(content).hexdigest()}
            | (
                {"lfs": {"size": len(content), "sha256": _sha256(content), "pointerSize": 130}}
                if is_large(name)
                else {}
            )
            for name, content in self.files.items()
        ]
        return {
            "id": self.model,
            "modelId": self.model,
            "sha": REVISION,
            "private": False,
            "siblings": siblings,
            "tags": [],
        }


def is_large(name: str) -> bool:
    return name.endswith(".safetensors")


@functools.cache
def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


@contextlib.contextmanager
def running(hub: FakeHub) -> Iterator[FakeHub]:
    """The hub at its ``address``."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: object) -> None:
            pass

        def do_HEAD(self) -> None:
            self._answer(with_body=False)

        def do_GET(self) -> None:
            with contextlib.suppress(ConnectionError):  # of who was killed
                self._answer(with_body=True)

        def _answer(self, *, with_body: bool) -> None:
            path = self.path.partition("?")[0]
            if path.startswith(f"/api/models/{hub.model}"):
                listing = hub.tree() if "/tree/" in path else hub.info()
                self._send(json.dumps(listing).encode(), {"Content-Type": "application/json"}, with_body=with_body)
                return
            name = path.removeprefix(f"/{hub.model}/resolve/{REVISION}/").removeprefix(f"/{hub.model}/resolve/main/")
            content = hub.files.get(name)
            if content is None:
                self._send(b"", {"X-Error-Code": "EntryNotFound"}, status=404, with_body=with_body)
                return
            etag = _sha256(content) if is_large(name) else hashlib.sha1(content).hexdigest()
            headers = {"ETag": f'"{etag}"', "X-Repo-Commit": REVISION, "Accept-Ranges": "bytes"}
            asked = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
            start = int(asked[1]) if asked else 0
            if asked:
                headers["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
            if with_body and is_large(name):
                hub.starts.append((name, start))
            self._send(
                content[start:], headers, status=206 if asked else 200, with_body=with_body, name=name, start=start
            )

        def _send(
            self,
            body: bytes,
            headers: Mapping[str, str],
            *,
            with_body: bool,
            status: int = 200,
            name: str = "",
            start: int = 0,
        ) -> None:
            self.send_response(status)
            for key, value in headers.items():
                self.send_header(key, value)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            for offset in range(0, len(body) if with_body else 0, 1 << 20):
                if not hub.may_send(name, start + offset):
                    self.close_connection = True
                    return
                self.wfile.write(body[offset : offset + (1 << 20)])

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    hub.address = f"http://127.0.0.1:{server.server_port}"
    try:
        yield hub
    finally:
        server.shutdown()
        thread.join()
        server.server_close()

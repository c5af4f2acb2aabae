"""The commands and programs of README.md and docs/ do what the pages say, at the addresses that stand there.

They are taken from the pages. The real suite runs in a network of its own; what the pages do to a suite is done to it. A test marked slow
starts every server and every suite that the pages start.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file

from specgrove.cli import main
from tests.certificates import make_certificates
from tests.documented import ROOT, Block, Command, blocks, commands, snippets, unknown_lines
from tests.end_to_end.docs_commands import (
    SNIPPETS_NOT_RUN,
    Way,
    on_the_suite,
    program_of,
    shape,
    shell_words,
    starts_services,
    way_of,
)
from tests.end_to_end.private_network import PrivateNetwork, quoted
from tests.models.gguf_writing import save_tiny_gguf

CLI_PAGE = ROOT / "docs" / "cli.md"
SUITE = "specgrove serve --http-address 127.0.0.1:8000 --log-requests"
READY = {"specgrove serve": "Ctrl-C stops", "specgrove chat": "Ctrl-C ends it", "prometheus": "Server is ready"}
REQUEST_LINE = re.compile(
    r"\d\d:\d\d:\d\d\.\d{3} INFO router: request [0-9a-f]{8}: \d+ \+ \d+ tokens in \S+ m?s, "
    r"the first after \S+ m?s, \S+ tokens per step, \w+"
)
QUESTIONS = [f"What is {number} and {number}?" for number in range(24)]


def of_way(*ways: Way) -> list[Command]:
    """Each command once, at its first place."""
    first: dict[str, Command] = {}
    for command in commands():
        # Of two with the same words the one whose page shows an output.
        known = first.get(shell_words(command))
        if way_of(command) in ways and (known is None or not known.output):
            first[shell_words(command)] = command
    return list(first.values())


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
    for name in ("mine", "prompts", "chatbot", "alpaca", "piqa"):
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
def environment(demo_llm: Path, tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, str]:
    """The user's is not touched; the cache has the demo model alone."""
    cache = tmp_path_factory.mktemp("cache")
    (cache / "specgrove").mkdir()
    (cache / "specgrove" / demo_llm.name).symlink_to(demo_llm)
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    home = str(tmp_path_factory.mktemp("home"))
    more = {"PYTHONUNBUFFERED": "1", "BROWSER": "true", "COLUMNS": "120"}
    return {"PATH": path, "HOME": home, "XDG_CACHE_HOME": str(cache), "PYTHONPATH": str(ROOT), **more}


@pytest.fixture
def network() -> Iterator[PrivateNetwork]:
    yield from networks()


def networks() -> Iterator[PrivateNetwork]:
    try:
        made = PrivateNetwork()
    except OSError as error:
        pytest.skip(str(error))
    yield made
    made.close()


@pytest.fixture(scope="module")
def suite_network(environment: Mapping[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[PrivateNetwork]:
    """With the suite that docs/cli.md starts; it prints what stands there."""
    shown = next(found.output for found in commands() if found.words == SUITE)
    for network in networks():
        with network.server(SUITE, tmp_path_factory.mktemp("suite"), environment, READY["specgrove serve"]) as log:
            folder = log.parent
            runs(network, "specgrove generate Hi --max-tokens 4 --address 127.0.0.1:50051", folder, environment)
            yield network
        printed = one_line(log.read_text())
        assert printed.startswith(one_line(shown).partition("; Ctrl-C stops")[0])
        assert REQUEST_LINE.search(one_line(shown))
        assert REQUEST_LINE.search(printed)


def one_line(text: str) -> str:
    """Pages break long lines."""
    return " ".join(text.split())


def runs(network: PrivateNetwork, words: str, folder: Path, environment: Mapping[str, str]) -> str:
    ended = network.run(words, folder, environment, stdin="Say hi.\n")
    assert ended.returncode == 0, f"{words}\n{ended.stdout}"
    return ended.stdout


@pytest.mark.parametrize("command", of_way(Way.ON_THE_SUITE), ids=str)
def test_a_command_prints_what_its_page_shows(
    suite_network: PrivateNetwork, folder: Path, environment: Mapping[str, str], command: Command
) -> None:
    words = on_the_suite(shell_words(command))
    printed = runs(suite_network, words, folder, environment)
    if words.startswith("curl"):
        assert json.loads(printed[printed.index("{") :])["choices"]
    assert [line for line in shape(command.output) if line not in shape(printed)] == []


@pytest.mark.parametrize("command", of_way(Way.ALONE), ids=str)
def test_a_command_prints_what_its_page_shows_where_no_suite_runs(
    network: PrivateNetwork, folder: Path, environment: Mapping[str, str], command: Command
) -> None:
    printed = runs(network, shell_words(command), folder, environment)
    assert [line for line in shape(command.output) if line not in shape(printed)] == []


@pytest.mark.parametrize(
    "snippet",
    [found for found in snippets() if found.page not in SNIPPETS_NOT_RUN and not starts_services(found)],
    ids=lambda found: f"{found.page}:{found.line}",
)
def test_a_program_runs_as_it_stands(
    suite_network: PrivateNetwork, folder: Path, environment: Mapping[str, str], snippet: Block
) -> None:
    printed = runs(suite_network, quoted(program_of(snippet)), folder, environment)
    assert printed.strip() or "print" not in snippet.text


@pytest.mark.parametrize(
    "command", [found for found in of_way(Way.SERVER) if "specgrove serve" in found.words], ids=str
)
def test_serve_takes_the_settings(
    folder: Path, command: Command, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(folder)
    assert main([*shell_words(command).split()[1:], "--print-config"]) == 0
    assert yaml.safe_load(capsys.readouterr().out)


def test_all_commands_are_found() -> None:
    """A program that the pages have not shown before is to be listed, and is then run or has a reason."""
    assert unknown_lines() == []
    assert len(of_way(Way.ON_THE_SUITE)) > 20
    assert len(of_way(Way.SERVER)) > 15
    assert {found.page for found in snippets()} > set(SNIPPETS_NOT_RUN)


@pytest.mark.slow
@pytest.mark.parametrize("command", of_way(Way.SERVER), ids=str)
def test_a_server_starts_as_it_stands(
    network: PrivateNetwork, folder: Path, environment: Mapping[str, str], command: Command
) -> None:
    words = shell_words(command)
    if not (folder / "DIR").exists():
        (folder / "DIR").symlink_to(folder / "my-model")
    ready = next(found for first, found in READY.items() if words.startswith(first))
    with network.server(words, folder, environment, ready):
        pass


@pytest.mark.slow
def test_services_that_are_started_by_hand_find_each_other(
    network: PrivateNetwork, folder: Path, environment: Mapping[str, str]
) -> None:
    llm, ssm, router = map(shell_words, of_way(Way.BY_HAND))
    with (
        network.server(llm, folder, environment, "listening on"),
        network.server(ssm, folder, environment, "listening on"),
        network.server(router, folder, environment, "INFO router: serving"),
    ):
        words = "specgrove generate Hi --max-tokens 8 --address 127.0.0.1:50051 --ssm demo"
        assert runs(network, words, folder, environment).strip()


@pytest.mark.slow
@pytest.mark.parametrize(
    "command",
    [
        found
        for found in of_way(Way.ON_THE_SUITE)
        if on_the_suite(shell_words(found)) != shell_words(found) and "127.0.0.1" not in shell_words(found)
    ],
    ids=str,
)
def test_a_command_starts_a_suite_of_its_own(
    network: PrivateNetwork, folder: Path, environment: Mapping[str, str], command: Command
) -> None:
    words = shell_words(command)
    if "--address" in words or " top" in words:
        pytest.skip("it reaches a suite that runs")
    printed = runs(network, words, folder, environment)
    assert [line for line in shape(command.output) if line not in shape(printed)] == []

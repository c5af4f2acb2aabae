"""The commands and programs of README.md and docs/ do what the pages say, at the addresses that stand there.

They are taken from the pages. The real suite runs in a network of its own; what the pages do to a suite is done to it.
``test_servers.py`` starts every server and every suite that the pages start.
"""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
import yaml

from specgrove.cli import main
from tests.documented import Block, Command, commands, snippets, unknown_lines
from tests.pages.conftest import skip_where_missing
from tests.pages.private_network import PrivateNetwork, networks, quoted
from tests.pages.ways import (
    READY,
    SNIPPETS_NOT_RUN,
    Way,
    of_way,
    on_the_suite,
    program_of,
    shape,
    shell_words,
    soon,
    starts_services,
)

SUITE = "specgrove serve --http-address 127.0.0.1:8000 --log-requests"
DRAFTED = """
from specgrove.client import Client
from specgrove.loop.request import SpeculationOptions
with Client("127.0.0.1:50051") as client:
    text = "Say this again and again: one two three one two three one two three one two three."
    client.complete([("user", text)], max_tokens=24, speculation=SpeculationOptions(max_num_nodes=4, max_depth=2))
"""
REQUEST_LINE = re.compile(
    r"\d\d:\d\d:\d\d\.\d{3} INFO router: request [0-9a-f]{8}: \d+ \+ \d+ tokens in \S+ m?s, "
    r"the first after \S+ m?s, \S+ tokens per step, \w+"
)


@pytest.fixture(scope="module")
def suite_network(environment: Mapping[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[PrivateNetwork]:
    """With the suite that docs/cli.md starts; it prints what stands there."""
    shown = next(found.output for found in commands() if found.words == SUITE)
    for network in networks():
        with network.server(SUITE, tmp_path_factory.mktemp("suite"), environment, READY["specgrove serve"]) as log:
            folder = log.parent
            # Trees of a given size, since whether drafting pays differs: what tells of SSMs has something to tell of all of them.
            network.runs(f"python -c {shlex.quote(DRAFTED)}", folder, environment)
            yield network
        printed = one_line(log.read_text())
        assert printed.startswith(one_line(shown).partition("; Ctrl-C stops")[0])
        assert REQUEST_LINE.search(one_line(shown))
        assert REQUEST_LINE.search(printed)


def one_line(text: str) -> str:
    """Pages break long lines."""
    return " ".join(text.split())


@pytest.mark.slow
@pytest.mark.parametrize("command", of_way(Way.ON_THE_SUITE), ids=str)
def test_a_command_prints_what_its_page_shows(
    suite_network: PrivateNetwork, folder: Path, environment: Mapping[str, str], command: Command
) -> None:
    words = on_the_suite(shell_words(command))
    skip_where_missing(words)
    printed = suite_network.runs(words, folder, environment)
    if words.startswith("curl"):
        assert json.loads(printed[printed.index("{") :])["choices"]
    assert [line for line in shape(command.output) if line not in shape(printed)] == []


@pytest.mark.slow
@pytest.mark.parametrize("command", of_way(Way.ALONE), ids=str)
def test_a_command_prints_what_its_page_shows_where_no_suite_runs(
    network: PrivateNetwork, folder: Path, environment: Mapping[str, str], command: Command
) -> None:
    printed = network.runs(shell_words(command), folder, environment)
    assert [line for line in shape(command.output) if line not in shape(printed)] == []


@pytest.mark.slow
def test_commands_that_go_on_with_what_the_one_before_wrote(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """In this process: importing torch takes most of the time of each."""
    monkeypatch.chdir(folder)
    for command in of_way(Way.ONE_AFTER_ANOTHER):
        capsys.readouterr()
        assert main(shlex.split(soon(shell_words(command)))[1:]) == 0
        printed = capsys.readouterr().out
        assert [line for line in shape(command.output) if line not in shape(printed)] == []


@pytest.mark.slow
@pytest.mark.parametrize(
    "snippet",
    [found for found in snippets() if found.page not in SNIPPETS_NOT_RUN and not starts_services(found)],
    ids=lambda found: f"{found.page}:{found.line}",
)
def test_a_program_runs_as_it_stands(
    suite_network: PrivateNetwork, folder: Path, environment: Mapping[str, str], snippet: Block
) -> None:
    printed = suite_network.runs(quoted(program_of(snippet)), folder, environment)
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

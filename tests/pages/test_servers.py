"""The pages' servers get ready with all their options, and each command that starts a suite of its own does what its page shows."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

from tests.documented import Command
from tests.pages.conftest import skip_where_missing
from tests.pages.private_network import PrivateNetwork
from tests.pages.ways import READY, Way, at_the_suite, of_way, shape, shell_words, soon, way_of

pytestmark = pytest.mark.slow


def options_of(command: Command) -> set[str]:
    return {word for word in shell_words(command).split() if word.startswith("--")}


def servers() -> list[Command]:
    """Those with the most options: what a server with fewer of them would show, one of these shows. All words are tried by
    ``test_serve_takes_the_settings``.
    """
    found: dict[str, list[Command]] = {}
    for command in sorted(of_way(Way.SERVER), key=lambda command: -len(options_of(command))):
        started = found.setdefault(program_of_line(command), [])
        if not any(options_of(command) <= options_of(other) for other in started):
            started.append(command)
    return [command for started in found.values() for command in started]


def program_of_line(command: Command) -> str:
    """What is started, such as ``specgrove serve``."""
    return next(program for program in READY if shell_words(command).startswith(program))


@pytest.mark.parametrize("command", servers(), ids=str)
def test_a_server_starts_as_it_stands(
    network: PrivateNetwork, folder: Path, quick_environment: Mapping[str, str], command: Command
) -> None:
    words = shell_words(command)
    skip_where_missing(words)
    if not (folder / "DIR").exists():
        (folder / "DIR").symlink_to(folder / "my-model")
    with network.server(words, folder, quick_environment, READY[program_of_line(command)]):
        pass


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
        assert network.runs(words, folder, environment).strip()


def starts_a_suite(command: Command) -> bool:
    """Where none runs."""
    words = shell_words(command)
    if way_of(command) is Way.IN_A_SUITE_OF_ITS_OWN:
        return True
    return at_the_suite(words) != words and " top" not in words and "127.0.0.1" not in words


def starting_suites() -> list[Command]:
    """One line of each command; ``test_commands.py`` tries all lines on a suite that runs."""
    first: dict[str, Command] = {}
    for command in filter(starts_a_suite, of_way(Way.ON_THE_SUITE, Way.IN_A_SUITE_OF_ITS_OWN)):
        first.setdefault(" ".join(shell_words(command).split()[:2]), command)
    return list(first.values())


@pytest.mark.parametrize("command", starting_suites(), ids=str)
def test_a_command_starts_a_suite_of_its_own(
    network: PrivateNetwork, folder: Path, environment: Mapping[str, str], command: Command
) -> None:
    printed = network.runs(soon(shell_words(command)), folder, environment)
    assert [line for line in shape(command.output) if line not in shape(printed)] == []

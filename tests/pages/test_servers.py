"""Every server that the pages start gets ready, and every command that starts a suite of its own does what its page shows."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

from tests.documented import Command
from tests.pages.conftest import skip_where_missing
from tests.pages.private_network import PrivateNetwork
from tests.pages.ways import READY, Way, at_the_suite, of_way, shape, shell_words, soon, way_of

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("command", of_way(Way.SERVER), ids=str)
def test_a_server_starts_as_it_stands(
    network: PrivateNetwork, folder: Path, quick_environment: Mapping[str, str], command: Command
) -> None:
    words = shell_words(command)
    skip_where_missing(words)
    if not (folder / "DIR").exists():
        (folder / "DIR").symlink_to(folder / "my-model")
    ready = next(found for first, found in READY.items() if words.startswith(first))
    with network.server(words, folder, quick_environment, ready):
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


@pytest.mark.parametrize(
    "command", [*filter(starts_a_suite, of_way(Way.ON_THE_SUITE, Way.IN_A_SUITE_OF_ITS_OWN))], ids=str
)
def test_a_command_starts_a_suite_of_its_own(
    network: PrivateNetwork, folder: Path, environment: Mapping[str, str], command: Command
) -> None:
    printed = network.runs(soon(shell_words(command)), folder, environment)
    assert [line for line in shape(command.output) if line not in shape(printed)] == []

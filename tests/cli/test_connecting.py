"""What commands say when the router that they talk to is gone."""

from __future__ import annotations

import pytest

from specgrove.cli.arguments import parser
from specgrove.cli.connecting import connected
from specgrove.errors import UnavailableError


@pytest.mark.parametrize("cause", ["Stream removed (Socket closed)", "Connection reset by peer"])
def test_a_router_that_ends_in_an_answer_is_told_with_what_to_do(cause: str) -> None:
    arguments = parser().parse_args(["generate", "hi", "--address", "127.0.0.1:1"])
    said = r"the router at 127.0.0.1:1 ended.*\(.*\): the answer is not complete; another try with the same seed"
    with pytest.raises(UnavailableError, match=said), connected(arguments):
        raise UnavailableError(cause)


def test_a_router_that_says_itself_what_is_wrong_is_quoted() -> None:
    arguments = parser().parse_args(["generate", "hi", "--address", "127.0.0.1:1"])
    with pytest.raises(UnavailableError, match=r"^no LLM replica$"), connected(arguments):
        raise UnavailableError("no LLM replica")

"""A conversation with a made-up router: what is sent, what is shown, and what ends it."""

from __future__ import annotations

import contextlib
import io
import os
import pty
import sys
import termios
from collections.abc import Iterator
from typing import Any

import pytest
import rich.console

from specgrove.cli import chat, main
from specgrove.cli.chat import Conversation
from specgrove.cli.terminal import without_echo
from specgrove.client.output import Chunk, OutputToken
from specgrove.errors import ResourceExhaustedError, UnavailableError
from tests.fake_router import FakeRouter

ANSWER = "The quick brown fox"
Router = tuple[FakeRouter, str]


def test_chat_keeps_the_conversation_until_reset(
    fake_router: Router, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO("one\ntwo\n/reset\nthree\n/exit\nnever\n"))
    assert main(["chat", "--address", fake_router[1], "--system", "Be brief."]) == 0
    conversations = [
        [(message.role, message.content) for message in request.chat.messages] for request in fake_router[0].requests
    ]
    system = ("system", "Be brief.")
    assert conversations == [
        [system, ("user", "one")],
        [system, ("user", "one"), ("assistant", ANSWER), ("user", "two")],
        [system, ("user", "three")],
    ]
    assert capsys.readouterr().out == 3 * (ANSWER + "\n")


def test_chat_commands_are_not_sent_to_the_model(
    fake_router: Router, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO("/help\n/halp me\n /usr/bin is what?\n/quit\nnever\n"))
    assert main(["chat", "--address", fake_router[1]]) == 0
    shown = capsys.readouterr().out
    assert "forget the conversation" in shown
    assert "/halp is no command; /help lists them" in shown
    assert [request.chat.messages[-1].content for request in fake_router[0].requests] == ["/usr/bin is what?"]


def test_a_piped_question_that_is_refused_makes_the_exit_code_1(
    fake_router: Router, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO("one\nhalf \ud83d\ntwo\n"))
    assert main(["chat", "--address", fake_router[1]]) == 1
    shown = capsys.readouterr()
    assert shown.out == 2 * (ANSWER + "\n")
    assert shown.err == "error: the prompt is not UTF-8 text\n"


class FailingClient:
    """The first request fails."""

    def __init__(self, error: Exception) -> None:
        self.error: Exception | None = error
        self.asked: list[Any] = []

    def generate(self, prompt: Any, **_: object) -> Iterator[Chunk]:
        self.asked.append(prompt)
        if self.error is not None:
            error, self.error = self.error, None
            raise error
        yield Chunk((OutputToken(1, "one"),), "one")


def conversation_with(client: FailingClient) -> Conversation:
    anything: Any = client
    return Conversation(anything, rich.console.Console(file=io.StringIO()), None, {})


GONE = UnavailableError("failed to connect to all addresses; last error: UNKNOWN: ipv4:127.0.0.1:1: Connection refused")


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (GONE, "error: the router does not answer: Connection refused; the conversation is kept"),
        (ResourceExhaustedError("full", retry_delay_ms=1), "error: full"),
    ],
)
def test_a_dialogue_outlives_a_router_that_does_not_answer(
    error: Exception, said: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    client = FailingClient(error)
    conversation = conversation_with(client)
    with pytest.raises(type(error)):  # nobody is there to ask again
        conversation.ask("one")
    client.error = error
    monkeypatch.setattr(chat, "is_dialogue", lambda: True)
    conversation.ask("two")
    assert capsys.readouterr().err == f"{said}\n"
    conversation.ask("three")
    assert client.asked[-1] == [("user", "three")]


def test_an_answer_that_was_stopped_is_remembered_as_far_as_it_came(monkeypatch: pytest.MonkeyPatch) -> None:
    class Stopped(FailingClient):
        def generate(self, prompt: Any, **_: object) -> Iterator[Chunk]:
            yield from super().generate(prompt)
            raise KeyboardInterrupt

    client = Stopped(KeyboardInterrupt())  # type: ignore[arg-type]
    client.error = None
    conversation = conversation_with(client)
    with pytest.raises(KeyboardInterrupt):
        conversation.ask("one")
    monkeypatch.setattr(chat, "is_dialogue", lambda: True)
    conversation.ask("two")
    conversation.ask("three")
    assert client.asked[-1] == [("user", "two"), ("assistant", "one ..."), ("user", "three")]


@pytest.mark.parametrize(("command", "code"), [("/clear", 0), ("/bye", 0), ("/?", 0)])
def test_commands_by_other_names(command: str, code: int, fake_router: Router, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO(f"one\n{command}\ntwo\n"))
    assert main(["chat", "--address", fake_router[1]]) == code
    asked = [[message.content for message in request.chat.messages] for request in fake_router[0].requests]
    assert (
        asked
        == {
            "/clear": [["one"], ["two"]],
            "/bye": [["one"]],
            "/?": [["one"], ["one", ANSWER, "two"]],
        }[command]
    )


def test_keys_pressed_during_an_answer_do_not_show_in_it(monkeypatch: pytest.MonkeyPatch) -> None:
    ours, theirs = pty.openpty()
    with open(theirs, closefd=True) as keyboard:
        monkeypatch.setattr(sys, "stdin", keyboard)
        before = termios.tcgetattr(theirs)
        with contextlib.suppress(KeyboardInterrupt), without_echo():
            assert not termios.tcgetattr(theirs)[3] & termios.ECHO
            raise KeyboardInterrupt
        assert termios.tcgetattr(theirs) == before
    os.close(ours)

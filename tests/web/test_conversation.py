"""What the page keeps of an answer, and what it asks for."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator

import pytest

from specgrove.client.output import Chunk
from specgrove.client.wire import GenerateParams
from specgrove.loop.request import SpeculationOptions
from specgrove.web.conversation import Answer, ChatOptions, Conversation, Turn
from tests.waiting import until
from tests.web.answers import SSMS, answered, drafted_answer, drafted_chunk, node, own_chunk, token


def test_an_answer_counts_steps_drafts_and_what_was_accepted() -> None:
    answer = drafted_answer()
    assert answer.text == "a b d <f>"
    assert answer.steps == [((),), (("lookup", "demo"), ("lookup",), ())]
    assert (answer.num_drafted, answer.num_accepted) == (5, 2)
    assert answer.tokens_per_step == 2
    assert answer.tokens_per_s == pytest.approx(3)  # after the first one, which came a second earlier
    assert answer.last_tree_step == 2
    assert answer.own_token == token(" <f>")


def test_steps_without_a_tree_are_one_token_each_and_leave_the_last_tree() -> None:
    answer = drafted_answer()
    answer.add(own_chunk("g", "h"), 20.0)
    assert answer.steps[-2:] == [((),), ((),)]
    assert answer.last_tree_step == 2


def test_an_output_that_ends_on_the_accepted_path_has_no_token_of_the_llms_own() -> None:
    chunk = drafted_chunk([token(" b", "demo")], node("a", None), node(" b", 0, "demo", accepted=True))
    assert answered(own_chunk("a"), chunk).own_token is None


def test_options_become_parameters() -> None:
    chosen = ChatOptions(temperature=0.5, seed=3, known_ssms=SSMS, further=GenerateParams(min_p=0.1, temperature=2.0))
    params = chosen.params()
    assert (params["temperature"], params["min_p"], params["seed"], params["step_details"]) == (0.5, 0.1, 3, True)
    assert chosen.params(seed=4)["seed"] == 4


@pytest.mark.parametrize(
    ("ssms", "is_speculative", "expected"),
    [
        (None, True, SpeculationOptions()),
        (("demo", "lookup"), True, SpeculationOptions()),
        (("demo",), True, SpeculationOptions(ssms=("demo",))),
        ((), True, SpeculationOptions(disabled=True)),
        (("demo",), False, SpeculationOptions(disabled=True)),
    ],
)
def test_which_ssms_draft(ssms: tuple[str, ...] | None, is_speculative: bool, expected: SpeculationOptions) -> None:
    options = ChatOptions(ssms=ssms, known_ssms=SSMS)
    assert options.params(is_speculative=is_speculative)["speculation"] == expected


def test_messages_leave_out_questions_without_an_answer() -> None:
    conversation = Conversation()
    conversation.turns = [Turn("one", answered(own_chunk("first"))), Turn("two", Answer())]
    assert conversation.messages("three", " ") == [("user", "one"), ("assistant", "first"), ("user", "three")]
    assert conversation.messages("three", "Be brief.")[0] == ("system", "Be brief.")


async def test_stop_ends_the_request() -> None:
    has_ended = asyncio.Event()

    async def endless() -> AsyncGenerator[Chunk, None]:
        try:
            yield own_chunk("a")
            await asyncio.Event().wait()
        finally:
            has_ended.set()

    conversation, answer = Conversation(), Answer()
    answering = conversation.begin(answer, endless())
    await until(lambda: bool(answer.tokens))
    assert conversation.is_answering
    conversation.stop()
    await asyncio.wait({answering})
    assert has_ended.is_set()
    assert not conversation.is_answering
    assert answer.text == "a"

"""Outputs of the real model that must look like something: they do, speculation changes none, and neither does a service that dies."""

from __future__ import annotations

import json
from typing import Any

import pytest

from specgrove.client import Client
from specgrove.errors import InvalidRequestError
from specgrove.loop.request import SpeculationOptions
from specgrove.suite.processes import Suite
from tests.end_to_end.kills import kill

QUESTION = [("user", "Describe a cat: its name, its age in years, and two things that it likes.")]
CAT: dict[str, Any] = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 12},
        "age": {"type": "integer", "minimum": 0, "maximum": 30},
        "likes": {"type": "array", "items": {"enum": ["fish", "milk", "sleep"]}, "minItems": 2, "maxItems": 2},
    },
    "required": ["name", "age", "likes"],
    "additionalProperties": False,
}
DRAFTING = SpeculationOptions(ssms=("lookup", "beam"), max_num_nodes=8, max_depth=4)


@pytest.mark.parametrize("sampling", [{"temperature": 0.0}, {"temperature": 1.2, "seed": 4, "presence_penalty": 0.3}])
def test_json_by_a_schema_with_and_without_speculation(client: Client, sampling: dict[str, Any]) -> None:
    asked = {"json_schema": CAT, "max_tokens": 120, **sampling}
    answers = [
        client.complete(QUESTION, speculation=speculation, **asked)
        for speculation in (DRAFTING, SpeculationOptions(disabled=True))
    ]
    assert answers[0].token_ids == answers[1].token_ids
    assert answers[0].usage.num_drafted_nodes > 0 == answers[1].usage.num_drafted_nodes
    assert answers[0].finish_reason.value == "stop"
    cat = json.loads(answers[0].text)
    assert list(cat) == ["name", "age", "likes"]
    assert 0 <= cat["age"] <= 30
    assert set(cat["likes"]) <= {"fish", "milk", "sleep"}


def test_it_goes_on_where_its_llm_service_is_killed(suite: Suite, client: Client) -> None:
    asked: dict[str, Any] = {"regex": r"([a-z]{3,8} ){12}end", "max_tokens": 150, "speculation": DRAFTING}
    expected = client.complete(QUESTION, **asked)
    assert expected.text.endswith(" end")
    token_ids: list[int] = []
    for chunk in client.generate(QUESTION, **asked):
        if not token_ids:
            kill(suite, "llm_service")
        token_ids += [token.token_id for token in chunk.tokens]
        num_replays = chunk.usage.num_replays if chunk.usage else 0
    assert tuple(token_ids) == expected.token_ids
    assert num_replays > 0


def test_other_forms(client: Client) -> None:
    sky = [("user", "Is the sky blue? Answer yes or no.")]
    assert client.complete(sky, choice=["yes", "no"], max_tokens=5).text in ("yes", "no")
    sum_of_two = 'start: NUMBER " + " NUMBER\nNUMBER: /[1-9][0-9]{0,2}/'
    left, right = client.complete("1 + ", grammar=sum_of_two, max_tokens=20).text.split(" + ")
    assert left.isdecimal()
    assert right.isdecimal()
    assert isinstance(json.loads(client.complete(QUESTION, json_object=True, max_tokens=200).text), dict)


def test_what_can_not_be_is_refused_before_the_model_hears_of_it(client: Client) -> None:
    with pytest.raises(InvalidRequestError, match=r"sampling.structured_output.regex: .*unclosed group"):
        client.complete(QUESTION, regex="(a")

"""How tokens are to be chosen, requests, SSMs, and what of an argument is one prompt and what is several."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import specgrove.serve as sg
from specgrove.serve.batches import requests_of
from specgrove.v1 import router_pb2

CHAT = [{"role": "user", "content": "hi"}]
PAIRS = [("system", "be brief"), ("user", "hi")]
DEFAULTS = sg.Request("", max_new_tokens=9, generation_config=sg.GenerationConfig(topk=7))


def test_without_do_sample_nothing_is_random() -> None:
    params = sg.GenerationConfig(do_sample=False, temperature=0.9, topp=0.8, topk=1, stop="\n").params()
    assert params["temperature"] == 0.0
    assert not {"top_p", "top_k", "seed"} & params.keys()
    assert params["stop"] == "\n"


def test_with_do_sample_flexflows_defaults_count() -> None:
    params = sg.GenerationConfig(do_sample=True, seed=3).params()
    assert (params["temperature"], params["top_p"], params["top_k"], params["seed"]) == (0.9, 0.8, 0, 3)


def test_the_outputs_form_is_the_clients() -> None:
    params = sg.GenerationConfig(choice=iter(["yes", "no"])).params()
    assert params["choice"] == ["yes", "no"]
    assert sg.GenerationConfig(json_schema={"type": "null"}).params()["json_schema"] == {"type": "null"}


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"temperature": -1}, r"temperature must be in \[0, 100\], got -1"),
        ({"temperature": "hot"}, "temperature must be a number, got 'hot'"),
        ({"temperature": 10**400}, "temperature must be a number: int too large"),
        ({"topp": np.array([0.5, 0.9])}, "topp must be a number"),
        ({"topp": 1.5}, r"topp must be in \[0, 1\], got 1.5"),
        ({"min_p": float("nan")}, "min_p must be in"),
        ({"topk": 1.5}, "top_k: must be a whole number"),
        ({"seed": -1}, "seed: must be a whole number"),
        ({"repetition_penalty": 0}, r"repetition_penalty must be in \[0.01, 10\]"),
        ({"stop": [""]}, "stop: a text must have 1 to 256 characters"),
        ({"stop": ["x"] * 17}, "stop has 17 texts; at most 16"),
        ({"stop": 5}, "stop: must be a text or several"),
        ({"stop_token_ids": "no"}, "stop_token_ids: must be token ids"),
        ({"logit_bias": {1: 1000}}, r"logit_bias of token 1 must be in \[-100, 100\]"),
        ({"do_sample": "yes"}, "do_sample must be True or False"),
        ({"min_new_tokens": -1}, "min_tokens: must be a whole number"),
        ({"regex": "(a"}, "regex at 1.* unclosed group"),
        ({"regex": "a", "json_object": True}, "give one of json_object and regex, not several"),
        ({"json_schema": {"type": "objekt"}}, "json_schema Invalid type: objekt"),
        ({"json_schema": "{"}, "json_schema EOF while parsing"),
    ],
)
def test_wrong_values_are_told_when_they_are_given(values: dict[str, Any], said: str) -> None:
    with pytest.raises(sg.ConfigurationError, match=said):
        sg.GenerationConfig(**values)


def test_one_kind_of_error_tells_what_was_given_wrong() -> None:
    assert issubclass(sg.ConfigurationError, sg.SpecGroveError)
    for make in (lambda: sg.Request("hi", max_new_tokens=-1), lambda: sg.Request(5), lambda: sg.Request([("user",)])):  # type: ignore[arg-type]
        with pytest.raises(sg.ConfigurationError):
            make()
    with pytest.raises(sg.ConfigurationError, match="generation_config must be a GenerationConfig, got a dict"):
        sg.Request("hi", generation_config={"topk": 1})  # type: ignore[arg-type]
    with pytest.raises(sg.ConfigurationError, match="timeout_s: must be above 0 seconds"):
        sg.Request("hi", timeout_s=-1)


def prompts_of(given: Any) -> list[Any]:
    requests, _ = requests_of(given, DEFAULTS)
    return [request.prompt for request in requests]


@pytest.mark.parametrize(
    "prompt",
    [
        "text", CHAT, PAIRS, [1, 2], range(5, 7), (3, 4), np.array([1, 2]), [np.int64(1), 2],
        [router_pb2.ChatMessage(role="user", content="hi")], [*PAIRS, CHAT[0]], sg.Request(PAIRS),
    ],
    ids=lambda prompt: type(prompt).__name__,
)  # fmt: skip
def test_what_one_prompt_is(prompt: Any) -> None:
    requests, are_several = requests_of(prompt, DEFAULTS)
    assert not are_several
    assert len(requests) == 1
    # Several of it are as many.
    again, are_several = requests_of([prompt, prompt], DEFAULTS)
    assert are_several
    assert len(again) == 2


def test_what_several_prompts_are() -> None:
    assert prompts_of(["a", "b"]) == ["a", "b"]
    assert prompts_of(("a", "b")) == ["a", "b"]
    assert prompts_of(text for text in "ab") == ["a", "b"]
    assert prompts_of([CHAT, PAIRS]) == [CHAT, PAIRS]
    assert prompts_of([[1, 2], [3]]) == [[1, 2], [3]]
    assert prompts_of(["a", CHAT, [1], sg.Request("b")]) == ["a", CHAT, [1], "b"]
    assert [list(row) for row in prompts_of(np.array([[1, 2], [3, 4]]))] == [[1, 2], [3, 4]]
    assert requests_of([], DEFAULTS) == ([], True)
    assert prompts_of(np.array(["a", "b"])) == ["a", "b"]
    assert requests_of(np.array([]), DEFAULTS) == ([], True)


def test_a_column_of_a_table_is_several_prompts_whatever_its_index() -> None:
    pandas = pytest.importorskip("pandas")
    assert prompts_of(pandas.Series(["a", "b"], index=[7, 9])) == ["a", "b"]
    assert prompts_of(pandas.Series([[1, 2], [3]])) == [[1, 2], [3]]


def test_ids_and_messages_of_a_generator_are_one_prompt_and_so_is_a_message() -> None:
    assert prompts_of(CHAT[0]) == [CHAT[0]]
    assert prompts_of(iter([1, 2])) == [[1, 2]]
    assert prompts_of(iter(CHAT)) == [CHAT]


@pytest.mark.parametrize("given", [5, None, 2.5, [5.5], b"bytes", [["user", "hi"]], np.array(5)])
def test_what_is_no_prompt_is_told(given: Any) -> None:
    with pytest.raises(sg.ConfigurationError):
        requests_of(given, DEFAULTS)


def test_a_request_keeps_its_own_settings_and_takes_the_others_from_the_call() -> None:
    own = sg.GenerationConfig(do_sample=True)
    (one, other, third), _ = requests_of(
        ["a", sg.Request("b", max_length=5), sg.Request("c", generation_config=own)], DEFAULTS
    )
    assert (one.max_new_tokens, one.generation_config) == (9, DEFAULTS.generation_config)
    assert (other.max_new_tokens, other.max_length, other.generation_config) == (None, 5, DEFAULTS.generation_config)
    assert (third.max_new_tokens, third.generation_config) == (9, own)


def test_an_ssm_is_named_as_on_the_command_line() -> None:
    assert sg.SSM("lookup").spec == "lookup"
    assert (
        sg.SSM("demo", name="d", mode="expansion", expansion=(1, 1, 3)).spec
        == "demo,mode=expansion,expansion=1-1-3,name=d"
    )
    assert sg.SSM("a/b", width=4, quantization="int8").spec == "a/b,width=4,quantization=int8"
    assert sg.SSM("a/b").name == "b"
    sg.SSM("demo", sg.DataType.DT_HALF, "", False, "").compile(
        sg.GenerationConfig(), max_requests_per_batch=1, max_seq_length=256, max_tokens_per_batch=64
    )


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: sg.SSM("demo", width=0), "from 1 to 64"),
        (lambda: sg.SSM("demo", mode="wild"), "mode must be beam or expansion"),
        (lambda: sg.SSM("lookup", width=2), "lookup has no option but corpus, name, store"),
        (lambda: sg.SSM(""), "SSM: give a model folder"),
        (lambda: sg.LLM(5), "LLM: give a model folder"),  # type: ignore[arg-type]
        (lambda: sg.LLM("m", data_type="fp8"), "data_type must be a DataType or one of float32, bfloat16, float16"),
        (lambda: sg.SSM("demo", expansion=3), r"expansion must be numbers of branches, e.g. \(1, 1, 3\), got 3"),  # type: ignore[arg-type]
        (lambda: sg.SSM("demo", expansion="1-1-3"), "expansion must be numbers of branches"),  # type: ignore[arg-type]
        (lambda: sg.LLM("m", output_file=5), "output_file must be a path, got 5"),  # type: ignore[arg-type]
        (lambda: sg.LLM("m", output_file="~no such user/x"), "the home folder of this user is not known"),
        (lambda: sg.LLM("m", cache_path=b"c"), "cache_path must be a path"),  # type: ignore[arg-type]
        (lambda: sg.LLM("m").compile(ssms=5), "ssms must be a list of SSMs, got 5"),  # type: ignore[arg-type]
        (lambda: sg.SSM("demo").compile({"topk": 1}), "must be a GenerationConfig"),  # type: ignore[arg-type]
    ],
)
def test_wrong_models_are_told_when_they_are_named(make: Any, said: str) -> None:
    with pytest.raises(sg.ConfigurationError, match=said):
        make()

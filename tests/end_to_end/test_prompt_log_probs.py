"""Log-probabilities of prompts on the real model through the real services: transformers' values, and the same bits on every way."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from openai import OpenAI

from specgrove.client import Client
from specgrove.client.output import PromptToken
from specgrove.suite.processes import Suite
from tests.end_to_end.kills import kill
from tests.waiting import LIMIT_S

TEXT = "The bridge over the river is old, narrow and, since the Größe of 1907, made of iron. "
MODEL = "smollm2-135m-instruct"
WISHES: dict[str, Any] = {"num_prompt_log_probs": 3, "prompt_only": True}


@pytest.fixture(scope="module")
def expected(suite: Suite) -> tuple[PromptToken, ...]:
    with Client(suite.address) as client:
        return client.complete(TEXT, **WISHES).prompt_tokens


@pytest.mark.slow  # tests/llm and tests/router have tiny models
def test_they_are_those_of_transformers(demo_llm: Path, expected: tuple[PromptToken, ...]) -> None:
    """As near to those in float32 as transformers' own in bfloat16 are, but for a factor of two."""
    from transformers import AutoModelForCausalLM

    token_ids = [token.token_id for token in expected]

    model = AutoModelForCausalLM.from_pretrained(demo_llm, dtype=torch.float32)

    def rows() -> torch.Tensor:
        with torch.no_grad():
            return model(torch.tensor([token_ids])).logits[0, :-1].float().log_softmax(dim=-1)

    exact = rows()
    for parameter in model.parameters():  # the rotary frequencies stay in float32, as where it is loaded so
        parameter.data = parameter.data.to(torch.bfloat16)
    rounded = rows()

    def told(rows: torch.Tensor) -> torch.Tensor:
        """Each token's, and the three largest ones."""
        return torch.cat([rows.gather(1, torch.tensor(token_ids[1:])[:, None]), rows.topk(3).values], dim=1)

    assert expected[0].log_probs is None
    log_probs = [token.log_probs for token in expected[1:]]
    assert all(one is not None for one in log_probs)
    found = torch.tensor([[one.log_prob, *(value for _, value in one.top)] for one in log_probs])
    assert (found - told(exact)).abs().max() <= 2 * (told(rounded) - told(exact)).abs().max()
    assert "".join(token.text for token in expected) == TEXT


def test_a_prompt_that_is_continued_has_the_same_bits_as_its_output_had(client: Client) -> None:
    """What was decoded token by token is read in one go."""
    first = client.complete(TEXT, max_tokens=12, num_log_probs=3, ignore_eos=True)
    again = client.complete([*client.tokenize(TEXT), *first.token_ids], **WISHES)
    assert [token.log_probs for token in again.prompt_tokens[-12:]] == [token.log_probs for token in first.tokens]


def test_http_tells_the_same(http_address: str, expected: tuple[PromptToken, ...]) -> None:
    api = OpenAI(base_url=f"http://{http_address}/v1", api_key="none", timeout=LIMIT_S, max_retries=0)
    answer = api.completions.create(model=MODEL, prompt=TEXT, max_tokens=0, echo=True, logprobs=3)
    found = answer.choices[0]
    assert found.text == TEXT
    assert found.logprobs is not None
    values = [None if token.log_probs is None else token.log_probs.log_prob for token in expected]
    assert found.logprobs.token_logprobs == values
    asked = {"model": MODEL, "prompt": [token.token_id for token in expected], "max_tokens": 1}
    theirs = api.completions.create(**asked, extra_body={"prompt_logprobs": 3})  # type: ignore[call-overload]
    for entry, token in zip(theirs.choices[0].prompt_logprobs[1:], expected[1:], strict=True):
        assert token.log_probs is not None
        own = entry[str(token.token_id)]
        assert (own["logprob"], own["rank"]) == (token.log_probs.log_prob, token.log_probs.rank)


def test_an_llm_service_that_is_killed_while_it_reads_costs_no_token_and_no_bit(suite: Suite, client: Client) -> None:
    text = TEXT * 12
    whole = client.complete(text, **WISHES).prompt_tokens
    found: list[PromptToken] = []
    is_killed = False
    for chunk in client.generate(text, **WISHES):
        found += chunk.prompt_tokens
        if found and not is_killed:
            assert len(found) < len(whole)
            kill(suite, "llm_service")
            is_killed = True
        usage = chunk.usage
    assert tuple(found) == whole
    assert usage is not None
    assert usage.num_output_tokens == 0
    assert usage.num_prompt_tokens == len(whole)

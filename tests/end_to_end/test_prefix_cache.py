"""A conversation's second turn with the real services: what was read is not read again, and the output is the same."""

from __future__ import annotations

from specgrove.client import Client
from specgrove.suite.processes import Suite

PROMPT = [token_id % 200 + 20 for token_id in range(400)]
PARAMS = {"max_tokens": 24, "temperature": 0.8, "seed": 3, "ignore_eos": True}


def test_a_second_turn_is_read_from_where_it_is_new(tiny_suite: Suite) -> None:
    with Client(tiny_suite.address) as client:
        first = client.complete(PROMPT, cache_salt="mine", **PARAMS)  # type: ignore[arg-type]
        assert first.usage.num_cached_prompt_tokens == 0
        further = [*PROMPT, *first.token_ids, 30, 31, 32]
        second = client.complete(further, cache_salt="mine", **PARAMS)  # type: ignore[arg-type]
        # The output's slots follow when its session is closed, which nobody waits for; its last token was never computed.
        num_cached = second.usage.num_cached_prompt_tokens
        assert len(PROMPT) - 1 <= num_cached <= len(PROMPT) + len(first.token_ids) - 1
        other = client.complete(further, cache_salt="another's", **PARAMS)  # type: ignore[arg-type]
        assert other.usage.num_cached_prompt_tokens == 0
        assert other.token_ids == second.token_ids

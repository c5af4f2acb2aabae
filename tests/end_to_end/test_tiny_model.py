"""A tiny model through the real services, drafted for by itself, and asked as its folder recommends."""

from __future__ import annotations

from benchmarks.prompts import load_prompts
from specgrove.client import Client
from specgrove.loop.request import SpeculationOptions
from specgrove.suite.processes import Suite

NUM_PROMPTS = 3


def test_the_llm_drafting_for_itself_is_always_right(tiny_suite: Suite) -> None:
    """Catches off-by-one errors in anyone's KV bookkeeping: every drafted token must be accepted."""
    # More tokens than the 64 steps that the verifier makes by itself before the first tree.
    chain = SpeculationOptions(ssms=("itself",), max_num_nodes=4, max_depth=4, beam_width=1)
    num_drafted = 0
    with Client(tiny_suite.address) as client:
        for prompt in load_prompts(NUM_PROMPTS):
            usage = client.complete(prompt[:200], max_tokens=200, ignore_eos=True, speculation=chain).usage
            assert usage.accepted_by_depth == usage.drafted_by_depth
            assert usage.num_drafted_nodes == sum(usage.drafted_by_depth)
            num_drafted += usage.num_drafted_nodes
    # Not of each: on a busy machine the drafter of a tiny model may come late for all 200 tokens.
    assert num_drafted > 0


def test_what_the_model_recommends_is_told_and_used_where_it_is_asked_for(tiny_suite: Suite) -> None:
    with Client(tiny_suite.address) as client:
        recommended = client.model_info().recommended_sampling
        assert recommended == {"temperature": 0.5, "top_k": 20}
        greedy, asked, typed = (
            client.complete("The bridge", max_tokens=32, seed=3, ignore_eos=True, **params).token_ids
            for params in ({}, {"recommended_sampling": True}, recommended)  # type: ignore[arg-type]
        )
        assert asked == typed != greedy

"""What the benchmark of drafting makes of requests' usages."""

from __future__ import annotations

from benchmarks.drafting import Way, drafting_of
from specgrove.client.output import Usage


def usage(num_output_tokens: int, num_steps: int, drafted: tuple[int, ...], accepted: tuple[int, ...]) -> Usage:
    return Usage(
        num_prompt_tokens=9,
        num_output_tokens=num_output_tokens,
        num_verify_steps=num_steps,
        acceptance_histogram=(),
        drafted_by_depth=drafted,
        accepted_by_depth=accepted,
        num_drafted_nodes=7 * sum(drafted[:1]),
        first_token_ms=1.0,
        decode_ms=1.0,
        draft_ms=4.0,
        verify_ms=40.0,
        num_replays=0,
        seed=1,
    )


def test_the_prompts_steps_are_left_out() -> None:
    way = Way("bfloat16", ("demo", "lookup"), 8, 0.8)
    found = drafting_of(way, [usage(21, 11, (10, 5), (8, 3)), usage(11, 11, (10,), (1,))])
    assert (found.num_tokens, found.num_steps, found.tokens_per_verification) == (30, 20, 1.5)
    assert found.right_by_depth == (0.45, 0.6)
    assert (found.num_nodes, found.draft_ms, found.verify_ms) == (140, 0.4, 4.0)
    assert "bfloat16 demo + lookup  8 rows T 0.8: 1.50 tokens per verification (20 steps of 7.0 nodes)" in found.line()


def test_no_steps_are_no_division() -> None:
    assert drafting_of(Way("int8", ("demo",), 2, 0.0), []).tokens_per_verification == 0

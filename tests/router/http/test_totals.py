"""What outputs took together, under OpenAI's and vLLM's names."""

from __future__ import annotations

from openai import AsyncOpenAI

from router.http.outputs import totals_json
from specgrove.v1 import router_pb2


def usage(histogram: list[int], drafted_by_depth: list[int], num_drafted: int) -> router_pb2.Usage:
    return router_pb2.Usage(
        num_prompt_tokens=5,
        num_output_tokens=sum((depth + 1) * count for depth, count in enumerate(histogram)),
        num_verify_steps=sum(histogram),
        acceptance_histogram=histogram,
        drafted_by_depth=drafted_by_depth,
        num_drafted_nodes=num_drafted,
    )


def test_steps_without_a_tree_are_no_speculation() -> None:
    outputs = [(0, usage([7, 1, 1], [4, 2], 12)), (1, usage([3], [], 0))]
    totals = totals_json(outputs, 2)
    assert totals["metrics"] == {
        "speculative_decoding": {
            "mean_acceptance_length": 1.75,
            "draft_acceptance_rate": 0.25,
            "acceptance_histogram": [2, 1, 1],
            "num_spec_steps": 4,
            "num_accepted_draft_tokens": 3,
            "num_draft_tokens": 12,
            "num_spec_tokens": 2,
        }
    }
    assert totals["usage"]["prompt_tokens"] == 5  # type: ignore[index]


def test_without_drafts_nothing_was_gained() -> None:
    drafting = totals_json([(0, usage([3], [], 0))], 1)["metrics"]["speculative_decoding"]  # type: ignore[index]
    assert (drafting["mean_acceptance_length"], drafting["draft_acceptance_rate"]) == (1.0, 0.0)
    assert drafting["acceptance_histogram"] == [0]


async def test_openais_client_finds_them_in_answers_and_in_the_last_chunk(api: AsyncOpenAI) -> None:
    asked = {"model": "toy", "prompt": "Hello, tree", "max_tokens": 30, "temperature": 0, "seed": 0}
    whole = await api.completions.create(**asked)  # type: ignore[call-overload]
    stream = await api.completions.create(**asked, stream=True, stream_options={"include_usage": True})  # type: ignore[call-overload]
    last = [chunk async for chunk in stream][-1]
    for answer in (whole, last):
        drafting = answer.model_extra["metrics"]["speculative_decoding"]
        details = answer.usage.completion_tokens_details
        assert drafting["num_accepted_draft_tokens"] == details.accepted_prediction_tokens > 0
        assert sum(drafting["acceptance_histogram"]) == drafting["num_spec_steps"] > 0

"""Outputs as they come, of one request or of several at once, and what they took together. Used by ``answers`` and its formats.

Invariant: when ``outputs_of`` ends or is closed, all of its calls have ended.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator, Iterable, Sequence
from dataclasses import dataclass

from router.http.asking import AskedPrompt
from router.http.calls import RouterCalls
from router.http.errors import SentNames
from router.merging import merged
from router.output_messages import FINISH_REASONS
from specgrove.v1 import router_pb2


@dataclass(frozen=True, slots=True)
class Piece:
    """A piece of the output of number ``index``, or of its prompt. The last one of an output has a finish reason and ``usage``."""

    index: int
    text: str
    tokens: Sequence[router_pb2.GeneratedToken] = ()
    finish_reason: str | None = None
    stop_reason: str | int | None = None
    usage: router_pb2.Usage | None = None
    prompt_tokens: Sequence[router_pb2.PromptToken] = ()
    num_prompt_tokens: int = 0
    """In the first piece of an output."""


async def outputs_of(
    calls: RouterCalls, prompts: Sequence[AskedPrompt], peer: str, *, include_stop_text: bool
) -> AsyncGenerator[Piece, None]:
    """Pieces of all outputs, numbered in the order of the requests, each output's in order. Raises what ends any of them."""
    numbered = enumerate((request, prompt.names) for prompt in prompts for request in prompt.requests)
    outputs = [
        _output(calls, request, names, peer, index, include_stop_text=include_stop_text)
        for index, (request, names) in numbered
    ]
    async with contextlib.aclosing(merged(outputs)) as pieces:
        async for piece in pieces:
            yield piece


async def _output(
    calls: RouterCalls,
    request: router_pb2.GenerateRequest,
    names: SentNames,
    peer: str,
    index: int,
    *,
    include_stop_text: bool,
) -> AsyncGenerator[Piece, None]:
    with names.renaming():
        async with contextlib.aclosing(calls.generate(request, peer)) as responses:
            async for response in responses:
                yield _piece_of(index, response, include_stop_text=include_stop_text)


def _piece_of(index: int, response: router_pb2.GenerateResponse, *, include_stop_text: bool) -> Piece:
    if not response.finish_reason:
        return Piece(
            index,
            response.text,
            response.tokens,
            prompt_tokens=response.prompt_tokens,
            num_prompt_tokens=response.num_prompt_tokens,
        )
    return Piece(
        index,
        response.text + (response.stop_reason.text if include_stop_text else ""),
        response.tokens,
        FINISH_REASONS[response.finish_reason],
        _stop_reason_of(response.stop_reason),
        response.usage,
        response.prompt_tokens,
    )


def _stop_reason_of(reason: router_pb2.StopReason) -> str | int | None:
    match reason.WhichOneof("reason"):
        case "text":
            return reason.text
        case "token_id":
            return reason.token_id
        case _:
            return None


def prompt_tokens_of(pieces: Sequence[Piece], num_outputs: int) -> list[list[router_pb2.PromptToken]]:
    """The prompt's tokens as each of the outputs has them."""
    tokens: list[list[router_pb2.PromptToken]] = [[] for _ in range(num_outputs)]
    for piece in pieces:
        tokens[piece.index].extend(piece.prompt_tokens)
    return tokens


def usage_json(usages: Iterable[tuple[int, router_pb2.Usage]], num_per_prompt: int) -> dict[str, object]:
    """What outputs took together, by their numbers. A prompt counts once, however many outputs it has."""
    known = dict(usages)
    num_prompt = sum(usage.num_prompt_tokens for index, usage in known.items() if index % num_per_prompt == 0)
    num_cached = sum(usage.num_cached_prompt_tokens for index, usage in known.items() if index % num_per_prompt == 0)
    num_output = sum(usage.num_output_tokens for usage in known.values())
    num_drafted = sum(usage.num_drafted_nodes for usage in known.values())
    num_accepted = sum(
        depth * count for usage in known.values() for depth, count in enumerate(usage.acceptance_histogram)
    )
    return {
        "prompt_tokens": num_prompt,
        "completion_tokens": num_output,
        "total_tokens": num_prompt + num_output,
        "prompt_tokens_details": {"cached_tokens": num_cached},
        "completion_tokens_details": {
            "accepted_prediction_tokens": num_accepted,
            "rejected_prediction_tokens": max(num_drafted - num_accepted, 0),
            "reasoning_tokens": 0,
        },
    }


def totals_json(usages: Iterable[tuple[int, router_pb2.Usage]], num_per_prompt: int) -> dict[str, object]:
    """The fields of an answer that tell what all of its outputs took: ``usage``, and how drafting went under vLLM's names."""
    known = list(usages)
    drafting = _speculative_decoding([usage for _, usage in known])
    return {"usage": usage_json(known, num_per_prompt), "metrics": {"speculative_decoding": drafting}}


def _speculative_decoding(usages: Sequence[router_pb2.Usage]) -> dict[str, object]:
    """As vLLM has it: of the steps with a drafted tree alone. Element j of the histogram counts those that accepted j tokens."""
    num_steps = sum(usage.num_verify_steps for usage in usages)
    num_spec_steps = sum(usage.drafted_by_depth[0] for usage in usages if usage.drafted_by_depth)
    num_drafted = sum(usage.num_drafted_nodes for usage in usages)
    histogram = [0] * max([1, *(len(usage.acceptance_histogram) for usage in usages)])
    for usage in usages:
        for depth, count in enumerate(usage.acceptance_histogram):
            histogram[depth] += count
    histogram[0] -= num_steps - num_spec_steps
    num_accepted = sum(depth * count for depth, count in enumerate(histogram))
    return {
        "mean_acceptance_length": 1 + num_accepted / max(num_spec_steps, 1),
        "draft_acceptance_rate": num_accepted / max(num_drafted, 1),
        "acceptance_histogram": histogram,
        "num_spec_steps": num_spec_steps,
        "num_accepted_draft_tokens": num_accepted,
        "num_draft_tokens": num_drafted,
        "num_spec_tokens": max((len(usage.drafted_by_depth) for usage in usages), default=0),
    }

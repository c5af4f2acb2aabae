"""Answers that are made up: as many tokens, steps and seconds as a test wants."""

from __future__ import annotations

from specgrove.client.output import Completion, OutputToken, Usage
from specgrove.loop.output import FinishReason
from specgrove.measuring.answering import Answers
from specgrove.measuring.quartiles import Quartiles
from specgrove.measuring.recommendation import WayResult
from specgrove.measuring.ways import Way


def usage(
    num_tokens: int,
    num_steps: int,
    *,
    drafted: tuple[int, ...] = (),
    accepted: tuple[int, ...] = (),
    first_token_ms: float = 1.0,
    decode_ms: float = 1.0,
) -> Usage:
    return Usage(
        num_prompt_tokens=9,
        num_output_tokens=num_tokens,
        num_verify_steps=num_steps,
        acceptance_histogram=(),
        drafted_by_depth=drafted,
        accepted_by_depth=accepted,
        num_drafted_nodes=sum(drafted),
        first_token_ms=first_token_ms,
        decode_ms=decode_ms,
        draft_ms=0.0,
        verify_ms=0.0,
        num_replays=0,
        seed=1,
    )


def answers(elapsed_s: float, *token_ids: int) -> Answers:
    tokens = tuple(OutputToken(token_id, "x") for token_id in token_ids)
    made = Completion("x" * len(tokens), tokens, FinishReason.LENGTH, usage(len(tokens), len(tokens)))
    return Answers((made,), elapsed_s)


def result(
    *ssms: str, speed_up: tuple[float, float, float], num_pairs: int = 8, drafted_share: float = 0.5
) -> WayResult:
    rates = Quartiles(10.0, 10.0, 10.0)
    return WayResult(Way(ssms), num_pairs, rates, rates, Quartiles(*speed_up), 1.5, drafted_share, (0.5,), True)

"""What the SpecInfer paper reports of a prompt set: the latency of a token, and the tokens that a step of the LLM verifies.

https://arxiv.org/abs/2305.09781, section 6.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from specgrove.client import Client
from specgrove.client.output import Usage, tokens_per_step
from specgrove.client.wire import GenerateParams
from specgrove.loop.request import SpeculationOptions
from specgrove.measuring.answering import Answers, acceptance_by_depth, answer_all, drafted_share
from specgrove.measuring.fitting import Fitting
from specgrove.measuring.quartiles import Quartiles


@dataclass(frozen=True, slots=True)
class Decoded:
    """Prompts of a set, decoded in one way. ``ms_per_token`` is of each request: its time, with that to the first token, by its tokens."""

    num_tokens: int
    num_steps: int
    ms_per_token: Quartiles
    first_token_ms: Quartiles
    tokens_per_s: float
    """The rate of all requests together."""
    tokens_per_step: float
    drafted_share: float
    acceptance: tuple[float, ...]

    @staticmethod
    def of(parts: Sequence[Answers]) -> Decoded:
        """From groups that were answered one after the other."""
        usages = [usage for part in parts for usage in part.usages]
        num_tokens, elapsed_s = sum(part.num_tokens for part in parts), sum(part.elapsed_s for part in parts)
        return Decoded(
            num_tokens=num_tokens,
            num_steps=sum(usage.num_verify_steps for usage in usages),
            ms_per_token=Quartiles.of(_ms_per_token(usage) for usage in usages),
            first_token_ms=Quartiles.of(usage.first_token_ms for usage in usages),
            tokens_per_s=num_tokens / elapsed_s if elapsed_s > 0 else 0.0,
            tokens_per_step=tokens_per_step(usages),
            drafted_share=drafted_share(usages),
            acceptance=acceptance_by_depth(usages),
        )


@dataclass(frozen=True, slots=True)
class SetResult:
    """A set's prompts that fit; ``num_left_out`` don't. ``incremental`` is ``None`` where that was not asked for."""

    name: str
    num_prompts: int
    num_left_out: int
    decoded: Decoded
    incremental: Decoded | None = None


def measure_set(
    client: Client,
    name: str,
    fitting: Fitting,
    params: GenerateParams,
    num_at_once: int,
    say: Callable[[str], None],
    *,
    with_incremental: bool,
) -> SetResult:
    """All prompts, ``num_at_once`` together, with what ``params`` say; and incrementally by turns with it. Raises ``SpecGroveError``."""
    prompts = fitting.prompts
    plain = params | {"speculation": SpeculationOptions(disabled=True)}
    ways = [params, plain] if with_incremental else [params]
    parts: list[list[Answers]] = [[] for _ in ways]
    for number, start in enumerate(range(0, len(prompts), num_at_once)):
        say(f"{name}: prompt {start + 1} of {len(prompts)}")
        group = prompts[start : start + num_at_once]
        # The order changes, for a machine that gets slower or faster.
        for index in range(len(ways)) if number % 2 == 0 else reversed(range(len(ways))):
            parts[index].append(answer_all(client, group, ways[index], num_at_once))
    decoded = [Decoded.of(answers) for answers in parts]
    incremental = decoded[1] if with_incremental else None
    return SetResult(name, len(prompts), fitting.num_left_out, decoded[0], incremental)


def _ms_per_token(usage: Usage) -> float:
    return (usage.first_token_ms + usage.decode_ms) / max(usage.num_output_tokens, 1)

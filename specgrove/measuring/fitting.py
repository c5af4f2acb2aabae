"""Which prompts a model has room for: one that is too long would end a measurement of hours. Asked before anything is measured."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from specgrove.client import Client
from specgrove.client.arguments import Prompt
from specgrove.errors import InvalidRequestError


@dataclass(frozen=True, slots=True)
class Fitting:
    """Those that fit, in their order, and the number of those that don't."""

    prompts: tuple[Prompt, ...]
    num_left_out: int


def fitting_prompts(client: Client, prompts: Sequence[Prompt], max_tokens: int, max_model_len: int) -> Fitting:
    """With ``max_tokens`` of output, or one token where that is 0. Raises ``InvalidRequestError`` where none fits."""
    room = max_model_len - max(max_tokens, 1)
    fitting = [prompt for prompt in prompts if _length(client, prompt) <= room]
    if not fitting:
        description = f"none of {len(prompts)} prompts leaves room for {max(max_tokens, 1)} tokens: the context is {max_model_len}"
        raise InvalidRequestError.of("max_tokens", description)
    return Fitting(tuple(fitting), len(prompts) - len(fitting))


def _length(client: Client, prompt: Prompt) -> float:
    """In tokens; without end where the router does not even tokenise it."""
    try:
        return len(client.tokenize(prompt))  # type: ignore[arg-type]  # no token ids are measured
    except InvalidRequestError:
        return float("inf")

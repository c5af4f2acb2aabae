"""The answers to some prompts, so many at once, and the time that all of them took. Used by all that measures."""

from __future__ import annotations

import concurrent.futures
import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from specgrove.client import Client
from specgrove.client.arguments import Prompt
from specgrove.client.output import Completion, Usage
from specgrove.client.wire import GenerateParams


@dataclass(frozen=True, slots=True)
class Answers:
    """In the order of the prompts. ``elapsed_s`` is from the first request to the end of the last answer."""

    completions: tuple[Completion, ...]
    elapsed_s: float

    @property
    def usages(self) -> tuple[Usage, ...]:
        """What each took."""
        return tuple(completion.usage for completion in self.completions)

    @property
    def num_tokens(self) -> int:
        """The tokens of all outputs."""
        return sum(usage.num_output_tokens for usage in self.usages)

    @property
    def tokens_per_s(self) -> float:
        """The rate of all outputs together; the time to the first token counts."""
        return self.num_tokens / self.elapsed_s if self.elapsed_s > 0 else 0.0


def answer_all(
    client: Client,
    prompts: Sequence[Prompt],
    params: GenerateParams,
    num_at_once: int,
    clock: Callable[[], float] = time.perf_counter,
) -> Answers:
    """Raises what the first request that fails raises. Then, or interrupted, it calls the others off and closes the client.

    What earlier calls have had cached is not used: whoever is measured later would be the faster for it.
    """
    salted: GenerateParams = {"cache_salt": uuid.uuid4().hex, **params}
    with concurrent.futures.ThreadPoolExecutor(num_at_once) as executor:
        started_s = clock()
        futures = [executor.submit(client.complete, prompt, **salted) for prompt in prompts]
        try:
            for future in concurrent.futures.as_completed(futures):
                future.result()
        except BaseException:
            client.close()
            executor.shutdown(cancel_futures=True)
            raise
        return Answers(tuple(future.result() for future in futures), clock() - started_s)


def drafted_share(usages: Sequence[Usage]) -> float:
    """The share of the LLM's steps that verified a tree."""
    num_steps = sum(usage.num_verify_steps for usage in usages)
    return (
        sum(usage.drafted_by_depth[0] for usage in usages if usage.drafted_by_depth) / num_steps if num_steps else 0.0
    )


def acceptance_by_depth(usages: Sequence[Usage]) -> tuple[float, ...]:
    """For depth 1, 2, ...: the share of trees with nodes there of which one was accepted."""
    max_depth = max((len(usage.drafted_by_depth) for usage in usages), default=0)
    shares = []
    for depth in range(max_depth):
        num_drafted = sum(usage.drafted_by_depth[depth] for usage in usages if len(usage.drafted_by_depth) > depth)
        num_accepted = sum(usage.accepted_by_depth[depth] for usage in usages if len(usage.accepted_by_depth) > depth)
        shares.append(num_accepted / num_drafted if num_drafted else 0.0)
    return tuple(shares)

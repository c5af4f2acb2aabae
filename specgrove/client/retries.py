"""When a client tries a call again, and how it goes on with an output that was cut off. Used by ``client``.

An output is a function of its request and its seed, so a request may be sent again in the middle of its output: what the caller has
already is compared and left out. Invariant: a caller gets each token once, and never the rest of another output.
"""

from __future__ import annotations

import math
import secrets
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from random import Random

from specgrove.client import wire
from specgrove.client.arguments import Prompt, timeout_of
from specgrove.client.output import Chunk, PromptToken
from specgrove.client.wire import GenerateParams
from specgrove.errors import ResourceExhaustedError, SpecGroveError, UnavailableError
from specgrove.serving.status import is_not_connected
from specgrove.v1 import router_pb2

_NUM_SEED_BITS = 63
_SPREAD = (0.5, 1.0)  # of a delay of our own
_SPREAD_OF_HINT = (1.0, 1.1)  # the router gives each client a time of its own already


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """How often a call is tried again, and after which time.

    A router that is full says when there will be room. Else the first delay is ``first_delay_s`` at most, and each further one is twice
    as long; a random half is left out, so that clients don't come back together. A hint above ``max_delay_s`` is not waited for.
    """

    max_num_retries: int = 6
    first_delay_s: float = 0.25
    max_delay_s: float = 60.0

    def __post_init__(self) -> None:
        """Raises ``ValueError``."""
        if self.max_num_retries < 0:
            raise ValueError(f"max_num_retries must be 0 or more, got {self.max_num_retries}")
        for name in ("first_delay_s", "max_delay_s"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(f"{name} must be 0 seconds or more, got {getattr(self, name)}")


NO_RETRIES = RetryPolicy(max_num_retries=0)


class Tries:
    """The tries of one call, which share its time."""

    def __init__(self, policy: RetryPolicy, timeout_s: float | None, random: Random | None = None) -> None:
        self._policy = policy
        self._until_s = math.inf if timeout_s is None else time.monotonic() + timeout_s
        self._random = random or Random()
        self._num_retries = 0

    @property
    def may_retry(self) -> bool:
        """Whether the policy leaves a try after this one."""
        return self._num_retries < self._policy.max_num_retries

    def timeout_s(self) -> float | None:
        """What is left for the next try; ``None``: no limit."""
        return None if self._until_s == math.inf else max(self._until_s - time.monotonic(), 0.0)

    def delay_s(self, error: SpecGroveError, *, was_reached: bool, has_begun: bool = False) -> float:
        """How long to wait before the next try. Raises ``error`` where there is to be none.

        ``was_reached``: there was a router at this address once; one that never was there is no matter of trying again.
        """
        delay_s = self._wanted_delay_s(error, was_reached, has_begun) if self.may_retry else None
        if delay_s is None or time.monotonic() + delay_s >= self._until_s:
            raise error
        self._num_retries += 1
        return delay_s

    def _wanted_delay_s(self, error: SpecGroveError, was_reached: bool, has_begun: bool) -> float | None:
        if isinstance(error, ResourceExhaustedError) and not has_begun:
            hint_s = error.retry_delay_ms / 1000
            return None if hint_s > self._policy.max_delay_s else hint_s * self._random.uniform(*_SPREAD_OF_HINT)
        if isinstance(error, UnavailableError) and error.may_retry:
            if not was_reached and is_not_connected(str(error)):
                return None
            longest_s = min(self._policy.first_delay_s * 2.0**self._num_retries, self._policy.max_delay_s)
            return longest_s * self._random.uniform(*_SPREAD)
        return None


class Generation:
    """One call of ``generate``: its request, its tries, and what its caller has of the output."""

    def __init__(self, prompt: Prompt, params: GenerateParams, policy: RetryPolicy) -> None:
        """Raises ``InvalidRequestError`` where a value does not fit its field at all."""
        self.request = wire.request_to_proto(prompt, **params)
        self._tries = Tries(policy, timeout_of(params.get("timeout_s")))
        sampling = self.request.sampling
        if self._tries.may_retry and not sampling.HasField("seed"):
            sampling.seed = secrets.randbits(_NUM_SEED_BITS)  # else each try would draw one of its own
        self._token_ids: list[int] = []
        self._text_len = 0
        self._num_prompt_tokens = 0
        self._num_tokens_seen = 0
        self._text_len_seen = 0
        self._num_prompt_tokens_seen = 0

    def begin_try(self) -> float | None:
        """The next try's time-out in seconds."""
        self._num_tokens_seen = self._text_len_seen = self._num_prompt_tokens_seen = 0
        return self._tries.timeout_s()

    def delay_s(self, error: SpecGroveError, *, was_reached: bool) -> float:
        """As ``Tries.delay_s``."""
        # A router that is full may refuse a later try, as it may the first.
        return self._tries.delay_s(error, was_reached=was_reached, has_begun=self._num_tokens_seen > 0)

    def rest_of(self, response: router_pb2.GenerateResponse) -> Iterator[Chunk]:
        """The part of this try's next piece that the caller doesn't have, if there is one.

        Raises ``UnavailableError`` where the output differs from what the caller has.
        """
        chunk = wire.chunk_from_proto(response)
        held = self._token_ids[self._num_tokens_seen :]
        text_held_len = max(self._text_len - self._text_len_seen, 0)
        self._num_tokens_seen += len(chunk.tokens)
        self._text_len_seen += len(chunk.text)
        known = [token.token_id for token in chunk.tokens[: len(held)]]
        is_short = chunk.finish_reason is not None and len(known) < len(held)
        if known != held[: len(known)] or is_short:
            raise UnavailableError(
                "the output was cut off, and another try began differently: another model or build answers here now",
                may_retry=False,
            )
        rest = replace(
            chunk,
            tokens=chunk.tokens[len(held) :],
            text=chunk.text[text_held_len:],
            prompt_tokens=self._rest_of_prompt(chunk),
        )
        self._token_ids += (token.token_id for token in rest.tokens)
        self._text_len += len(rest.text)
        has_begun = bool(self._token_ids) or len(rest.prompt_tokens) < len(chunk.prompt_tokens)
        has_news = bool(rest.tokens or rest.text or rest.prompt_tokens) or rest.finish_reason is not None
        if has_news or not has_begun:
            yield rest

    def _rest_of_prompt(self, chunk: Chunk) -> tuple[PromptToken, ...]:
        num_held = max(self._num_prompt_tokens - self._num_prompt_tokens_seen, 0)
        self._num_prompt_tokens_seen += len(chunk.prompt_tokens)
        self._num_prompt_tokens = max(self._num_prompt_tokens, self._num_prompt_tokens_seen)
        return chunk.prompt_tokens[num_held:]

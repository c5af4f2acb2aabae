"""When a client tries a call again, and how it goes on with an output that was cut off. Used by ``client``.

An output is a function of its request, its seed and the model's numerics, so any router can go on with it: it is sent the tokens that the
caller has, and answers behind them. Invariant: a caller gets each token once, and never the rest of another output.
"""

from __future__ import annotations

import math
import secrets
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from random import Random
from typing import SupportsFloat, SupportsIndex

from specgrove.client import answers, wire
from specgrove.client.arguments import Prompt, timeout_of
from specgrove.client.output import Chunk, PromptToken
from specgrove.client.wire import GenerateParams
from specgrove.errors import InvalidRequestError, ResourceExhaustedError, SpecGroveError, UnavailableError
from specgrove.serving.status import is_not_connected
from specgrove.v1 import router_pb2

_NUM_SEED_BITS = 63
_MAX_DELAY_S = 1e6  # eleven days; there is an end to what can be waited for
_SPREAD = (0.5, 1.0)  # of a delay of our own
_SPREAD_OF_HINT = (1.0, 1.1)  # the router gives each client a time of its own already


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """How often a call is tried again, and after which time.

    A router that is full says when there will be room. Else the first delay is ``first_delay_s`` at most, and each further one is twice
    as long; a random half is left out, so that clients don't come back together. A hint above ``max_delay_s`` is not waited for.

    Of several addresses the next one is asked at once, and a retry is one more round over all of them. Tokens that come set the count
    back to none.
    """

    max_num_retries: int = 6
    first_delay_s: float = 0.25
    max_delay_s: float = 60.0

    def __post_init__(self) -> None:
        """Raises ``ValueError``."""
        count = self.max_num_retries
        if not isinstance(count, SupportsIndex) or isinstance(count, bool) or count < 0:
            raise ValueError(f"max_num_retries must be 0 or more, got {count!r}")
        for name in ("first_delay_s", "max_delay_s"):
            value = getattr(self, name)
            if not isinstance(value, SupportsFloat) or isinstance(value, bool) or not 0 <= float(value) <= _MAX_DELAY_S:
                raise ValueError(f"{name} must be 0 to {_MAX_DELAY_S:.0f} seconds, got {value!r}")


NO_RETRIES = RetryPolicy(max_num_retries=0)


def policy_of(retry: RetryPolicy | None) -> RetryPolicy:
    """``None`` is no retries. Raises ``ValueError`` for what is no policy, such as a number of retries."""
    if retry is None:
        return NO_RETRIES
    if not isinstance(retry, RetryPolicy):
        raise ValueError(f"retry must be a RetryPolicy, e.g. RetryPolicy(max_num_retries=3), or None, got {retry!r}")
    return retry


class Tries:
    """The tries of one call, which share its time."""

    def __init__(
        self, policy: RetryPolicy, timeout_s: float | None, random: Random | None = None, *, num_addresses: int = 1
    ) -> None:
        self._policy = policy
        self._until_s = math.inf if timeout_s is None else time.monotonic() + timeout_s
        self._random = random or Random()
        self._num_addresses = num_addresses
        self._num_retries = 0  # rounds over all addresses
        self._wanted_s: list[
            float | None
        ] = []  # by those that failed in this round: delays before they are asked again

    @property
    def may_retry(self) -> bool:
        """Whether the policy leaves a round after this one."""
        return self._num_retries < self._policy.max_num_retries

    def timeout_s(self) -> float | None:
        """What is left for the next try; ``None``: no limit."""
        return None if self._until_s == math.inf else max(self._until_s - time.monotonic(), 0.0)

    def get_on(self) -> None:
        """The call has got something that it need not get again: what failed before doesn't count any more."""
        self._num_retries = 0
        self._wanted_s.clear()

    def delay_s(self, error: SpecGroveError, *, was_reached: bool, has_begun: bool = False) -> float:
        """How long to wait before the next try, at the next address. Raises ``error`` where there is to be none.

        ``was_reached``: there was a router at an address once; where never was one there is no matter of trying again.
        """
        may_help = isinstance(error, UnavailableError) or (isinstance(error, ResourceExhaustedError) and not has_begun)
        if not may_help or self._policy.max_num_retries == 0:
            raise error
        self._wanted_s.append(self._wanted_delay_s(error, was_reached))
        is_round_over = len(self._wanted_s) >= self._num_addresses
        # One address that may help later is enough for another round.
        wanted_s = [delay_s for delay_s in self._wanted_s if delay_s is not None] if is_round_over else [0.0]
        if not wanted_s or time.monotonic() + min(wanted_s) >= self._until_s or (is_round_over and not self.may_retry):
            raise error
        if is_round_over:
            self._wanted_s.clear()
            self._num_retries += 1
        return min(wanted_s)

    def _wanted_delay_s(self, error: SpecGroveError, was_reached: bool) -> float | None:
        """Before the same address is asked again; None where that can't help."""
        if isinstance(error, ResourceExhaustedError):
            hint_s = error.retry_delay_ms / 1000
            return None if hint_s > self._policy.max_delay_s else hint_s * self._random.uniform(*_SPREAD_OF_HINT)
        may_retry = isinstance(error, UnavailableError) and error.may_retry
        if not may_retry or (not was_reached and is_not_connected(str(error))):
            return None
        longest_s = min(self._policy.first_delay_s * 2.0**self._num_retries, self._policy.max_delay_s)
        return longest_s * self._random.uniform(*_SPREAD)


class Generation:
    """One call of ``generate``: its request, its tries, and what its caller has of the output."""

    def __init__(self, prompt: Prompt, params: GenerateParams, policy: RetryPolicy, *, num_addresses: int = 1) -> None:
        """Raises ``InvalidRequestError`` where a value does not fit its field at all."""
        self.request = wire.request_to_proto(prompt, **params)
        self._tries = Tries(policy, timeout_of(params.get("timeout_s")), num_addresses=num_addresses)
        sampling = self.request.sampling
        if self._tries.may_retry and not sampling.HasField("seed"):
            sampling.seed = secrets.randbits(_NUM_SEED_BITS)  # else each try would draw one of its own
        self._token_ids: list[int] = []
        self._numerics = ""
        self._has_output_begun = False  # in this try
        self._num_prompt_tokens = 0
        self._num_prompt_tokens_seen = 0

    def begin_try(self) -> float | None:
        """The next try's time-out in seconds. ``request`` says from now on what the caller has."""
        self._has_output_begun = False
        self._num_prompt_tokens_seen = 0
        if self._token_ids:
            resume = self.request.resume
            resume.token_ids.extend(self._token_ids[len(resume.token_ids) :])
            resume.numerics = self._numerics
            self.request.prompt_progress = False
        return self._tries.timeout_s()

    def delay_s(self, error: SpecGroveError, *, was_reached: bool) -> float:
        """As ``Tries.delay_s``."""
        if isinstance(error, InvalidRequestError) and any(
            violation.field.startswith("resume.") for violation in error.violations
        ):
            # Another router, by an address that wasn't tried, may still be able to.
            error = UnavailableError(f"the output was cut off, and can't go on here: {error}", may_retry=False)
        # A router that is full may refuse a later try, as it may the first.
        return self._tries.delay_s(error, was_reached=was_reached, has_begun=self._has_output_begun)

    def rest_of(self, response: router_pb2.GenerateResponse) -> Iterator[Chunk]:
        """This try's next piece, if there is anything in it that the caller doesn't have.

        Raises ``UnavailableError`` where the router did not go on where the output was cut off.
        """
        chunk = answers.chunk_from_proto(response)
        if (chunk.tokens or chunk.finish_reason is not None) and not self._has_output_begun:
            self._begin_output(response)
        rest = replace(chunk, prompt_tokens=self._rest_of_prompt(chunk))
        if rest.tokens:
            self._token_ids += (token.token_id for token in rest.tokens)
            self._tries.get_on()
        has_begun = bool(self._token_ids) or len(rest.prompt_tokens) < len(chunk.prompt_tokens)
        has_news = bool(rest.tokens or rest.text or rest.prompt_tokens) or rest.finish_reason is not None
        if has_news or not has_begun:
            yield rest

    def _begin_output(self, response: router_pb2.GenerateResponse) -> None:
        self._has_output_begun = True
        if response.num_resumed_tokens != len(self._token_ids):
            raise UnavailableError(
                f"the output was cut off after {len(self._token_ids)} tokens, and a router that can't go on with it answers here now: "
                "it is of an older version",
                may_retry=False,
            )
        self._numerics = response.numerics

    def _rest_of_prompt(self, chunk: Chunk) -> tuple[PromptToken, ...]:
        num_held = max(self._num_prompt_tokens - self._num_prompt_tokens_seen, 0)
        self._num_prompt_tokens_seen += len(chunk.prompt_tokens)
        self._num_prompt_tokens = max(self._num_prompt_tokens, self._num_prompt_tokens_seen)
        return chunk.prompt_tokens[num_held:]

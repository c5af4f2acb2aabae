"""What became of requests, and how long their clients waited: counted by the servicer, told to metrics and ``GetStats``.

Invariant: every call of ``Generate`` counts once when it ends, however it ends and over whichever protocol it came.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import Counter
from collections.abc import Iterator

from specgrove.errors import InternalError, SpecGroveError
from specgrove.serving.status import status_of
from specgrove.telemetry.metrics import Histogram, Kind, Metric, Reading
from specgrove.telemetry.metrics.histogram import WAIT_BOUNDS_S
from specgrove.v1 import router_pb2

FINISHED = Metric(
    "specgrove_router_requests_finished_total",
    Kind.COUNTER,
    "Outputs that ended, by what ended them: stop (a stop token or text), length, or abort (the client left).",
    labels=("finished_reason",),
    vllm_name="vllm:request_success_total",
)
FAILED = Metric(
    "specgrove_router_requests_failed_total",
    Kind.COUNTER,
    "Requests that ended with an error, those that were refused among them, by gRPC's status code.",
    labels=("code",),
)
PROMPT_TOKENS = Metric(
    "specgrove_router_prompt_tokens_total",
    Kind.COUNTER,
    "Tokens of the prompts of requests that were let in.",
    vllm_name="vllm:prompt_tokens_total",
)
OUTPUT_TOKENS = Metric(
    "specgrove_router_generation_tokens_total",
    Kind.COUNTER,
    "Tokens that went to clients.",
    vllm_name="vllm:generation_tokens_total",
)
QUEUE_TIME = Metric(
    "specgrove_router_request_queue_time_seconds",
    Kind.HISTOGRAM,
    "Time from a request's arrival until it was let in.",
    vllm_name="vllm:request_queue_time_seconds",
)
FIRST_TOKEN = Metric(
    "specgrove_router_time_to_first_token_seconds",
    Kind.HISTOGRAM,
    "Time from a request's arrival to its first token.",
    vllm_name="vllm:time_to_first_token_seconds",
)
BETWEEN_TOKENS = Metric(
    "specgrove_router_inter_token_latency_seconds",
    Kind.HISTOGRAM,
    "Time between two tokens of an output: that between two of its pieces, divided by the later one's tokens and counted for each.",
    vllm_name="vllm:inter_token_latency_seconds",
)
DURATION = Metric(
    "specgrove_router_request_duration_seconds",
    Kind.HISTOGRAM,
    "Time from a request's arrival to its end, of those that finished (stop or length).",
    vllm_name="vllm:e2e_request_latency_seconds",
)


class RequestCounts:
    """One per router."""

    def __init__(self) -> None:
        # By label, from the start: a counter that appears with its first event has no rate before its second.
        self.num_finished: Counter[tuple[str, ...]] = Counter({("stop",): 0, ("length",): 0, ("abort",): 0})
        self.num_failed: Counter[tuple[str, ...]] = Counter()
        self.num_prompt_tokens = 0
        self.num_output_tokens = 0
        self.queue_s = Histogram(WAIT_BOUNDS_S)
        self.first_token_s = Histogram(WAIT_BOUNDS_S)
        self.between_tokens_s = Histogram(WAIT_BOUNDS_S)
        self.duration_s = Histogram(WAIT_BOUNDS_S)

    @contextlib.contextmanager
    def counting(self, arrived_s: float) -> Iterator[CountedRequest]:
        """Around all of a request. ``arrived_s`` is on ``time.monotonic``'s clock."""
        request = CountedRequest(self, arrived_s)
        try:
            yield request
        except (GeneratorExit, asyncio.CancelledError):
            self.num_finished[("abort",)] += 1
            raise
        except Exception as error:
            ours = error if isinstance(error, SpecGroveError) else InternalError(str(error))
            self.num_failed[(status_of(ours)[0].name,)] += 1
            raise
        request.count_end()

    def readings(self) -> Iterator[Reading]:
        """For metrics."""
        yield Reading(FINISHED, self.num_finished)
        yield Reading(FAILED, self.num_failed)
        yield Reading(PROMPT_TOKENS, self.num_prompt_tokens)
        yield Reading(OUTPUT_TOKENS, self.num_output_tokens)
        yield Reading(QUEUE_TIME, self.queue_s)
        yield Reading(FIRST_TOKEN, self.first_token_s)
        yield Reading(BETWEEN_TOKENS, self.between_tokens_s)
        yield Reading(DURATION, self.duration_s)


class CountedRequest:
    """One request on its way."""

    def __init__(self, counts: RequestCounts, arrived_s: float) -> None:
        self._counts = counts
        self.arrived_s = arrived_s
        """On ``time.monotonic``'s clock."""
        self._last_token_s: float | None = None
        self._finish_reason = router_pb2.FINISH_REASON_UNSPECIFIED

    def let_in(self) -> None:
        """It has its permit."""
        self._counts.queue_s.observe(time.monotonic() - self.arrived_s)

    def add_prompt(self, num_tokens: int) -> None:
        """Its prompt is known."""
        self._counts.num_prompt_tokens += num_tokens

    def add(self, response: router_pb2.GenerateResponse) -> None:
        """A piece that goes to the client."""
        self._finish_reason = response.finish_reason
        if not (num_tokens := len(response.tokens)):
            return
        counts, now_s = self._counts, time.monotonic()
        counts.num_output_tokens += num_tokens
        if self._last_token_s is None:
            counts.first_token_s.observe(now_s - self.arrived_s)
        else:
            counts.between_tokens_s.observe((now_s - self._last_token_s) / num_tokens, num_tokens)
        self._last_token_s = now_s

    def count_end(self) -> None:
        """For ``RequestCounts.counting``: it ended without an error."""
        if self._finish_reason == router_pb2.FINISH_REASON_UNSPECIFIED:
            self._counts.num_finished[("abort",)] += 1
            return
        reason = router_pb2.FinishReason.Name(self._finish_reason).removeprefix("FINISH_REASON_").lower()
        self._counts.num_finished[(reason,)] += 1
        self._counts.duration_s.observe(time.monotonic() - self.arrived_s)

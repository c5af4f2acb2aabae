"""One line of the log for each request, however it ends: its id, tokens, times and tokens per step. Made by the servicer.

A request that is refused before it has an id, by its fields or for want of room, is no line: a flood of them would be one of lines.
"""

from __future__ import annotations

import asyncio
import logging
import time
from types import TracebackType
from typing import Self

from router.request_ids import CallIds
from specgrove.telemetry.logs import of_requests
from specgrove.v1 import router_pb2

logger = logging.getLogger(__name__)


class RequestLog:
    """Watches one request's answers in ``with``, and logs when the block ends."""

    def __init__(self, request_id: str, num_prompt_tokens: int, arrived_s: float, ids: CallIds | None = None) -> None:
        """``arrived_s`` is on ``time.monotonic``'s clock; ``ids`` are those of the call that the request is of."""
        self._request_id = request_id
        self._ids = ids
        self._num_prompt_tokens = num_prompt_tokens
        self._arrived_s = arrived_s
        self._first_token_s: float | None = None
        self._num_output_tokens = 0
        self._last: router_pb2.GenerateResponse | None = None

    def add(self, response: router_pb2.GenerateResponse) -> None:
        """An answer that goes to the client."""
        if response.tokens and self._first_token_s is None:
            self._first_token_s = time.monotonic()
        self._num_output_tokens += len(response.tokens)
        self._last = response

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        now_s = time.monotonic()
        fields: dict[str, object] = {
            "request_id": self._request_id,
            "outcome": self._outcome(error),
            "num_prompt_tokens": self._num_prompt_tokens,
            "num_output_tokens": self._num_output_tokens,
            "total_ms": round((now_s - self._arrived_s) * 1e3, 1),
        }
        words = f"{self._num_prompt_tokens} + {self._num_output_tokens} tokens in {fields['total_ms']:.0f} ms"
        if self._first_token_s is not None:
            fields["first_token_ms"] = round((self._first_token_s - self._arrived_s) * 1e3, 1)
            words += f", the first after {fields['first_token_ms']:.0f} ms"
        if self._last is not None and self._last.usage.num_verify_steps:
            usage = self._last.usage
            num_decided = usage.num_output_tokens - usage.num_resumed_tokens
            fields["tokens_per_step"] = round(num_decided / usage.num_verify_steps, 2)
            fields["num_replays"] = usage.num_replays
            words += f", {fields['tokens_per_step']:.2f} tokens per step"
        words += f", {fields['outcome']}"
        if self._ids is not None and self._ids.of_client is not None:
            fields["client_request_id"] = self._ids.of_client
            words += self._ids.words_of_client
        extra = {"request": fields, **of_requests([self._request_id])}
        logger.info("%s", words, extra=extra)

    def _outcome(self, error: BaseException | None) -> str:
        if isinstance(error, (GeneratorExit, asyncio.CancelledError)):
            return "cancelled"
        if error is not None:
            return f"failed: {' '.join(str(error).split()) or type(error).__name__}"
        if self._last is None or not self._last.finish_reason:
            return "cancelled"
        return router_pb2.FinishReason.Name(self._last.finish_reason).removeprefix("FINISH_REASON_").lower()

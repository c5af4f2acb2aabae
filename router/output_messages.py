"""A request's output as messages, made of the loop's steps. Used by the servicer.

Invariant: the last message, and no other, has a finish reason and the usage; what follows a stop text is in none. Of an output that goes on
the messages are those that an undisturbed one has behind its resumed tokens.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator, Mapping
from dataclasses import replace

from router.prompt_tokens import PromptTokens, log_probs_to_proto
from router.step_details import step_details_of
from router.text_stream import TextPiece, TextStream
from router.validation import CheckedRequest
from specgrove.errors import InvalidRequestError
from specgrove.loop.output import CommittedToken, FinishReason, Step
from specgrove.loop.statistics import GenerationStatistics
from specgrove.tokenizer import Tokenizer
from specgrove.v1 import router_pb2

FINISH_REASONS: Mapping[int, str] = {
    router_pb2.FINISH_REASON_STOP: "stop",
    router_pb2.FINISH_REASON_LENGTH: "length",
}
"""As other protocols write them."""
_NUM_PROMPT_TOKENS_AT_ONCE = 64
# Of an output that goes on: tokens whose text is made between two looks at other requests.
_NUM_TAKEN_AT_ONCE = 256


class OutputMessages:
    """One per request."""

    def __init__(self, checked: CheckedRequest, tokenizer: Tokenizer, arrived_s: float) -> None:
        """``arrived_s`` is on ``time.monotonic``'s clock."""
        request, keep_special_tokens = checked.request, checked.keep_special_tokens
        self._checked = checked
        self._tokenizer = tokenizer
        self._arrived_s = arrived_s
        self._first_s: float | None = None
        self._stream = TextStream(
            tokenizer.detokenizer(request.prompt_token_ids, keep_special_tokens=keep_special_tokens),
            checked.stop_texts,
            request.sampling.min_tokens,
        )
        self._prompt = PromptTokens.of(request, tokenizer, keep_special_tokens=keep_special_tokens)
        self._statistics = GenerationStatistics()
        self.has_ended = False

    async def of_resumed(self) -> router_pb2.GenerateResponse | None:
        """Takes in the tokens that the client has, to be called first. Returns the only piece where they end the output.

        Raises ``InvalidRequestError`` where the output ended before the last of them.
        """
        request = self._checked.request
        token_ids = request.resumed_token_ids
        if not token_ids:
            return None
        is_stopped = token_ids[-1] in request.sampling.stop_token_ids
        num_taken, piece = 0, TextPiece((), "", None)
        while num_taken < len(token_ids) and piece.stop_text is None:
            part = token_ids[num_taken : num_taken + _NUM_TAKEN_AT_ONCE]
            is_last = num_taken + len(part) == len(token_ids)
            piece = self._stream.add(part, ends_with_stop_token=is_stopped and is_last)
            num_taken += len(piece.token_texts)
            await asyncio.sleep(0)
        if num_taken < len(token_ids):
            problem = f"has {len(token_ids)} tokens, but a stop text ends the output after {num_taken}"
            raise InvalidRequestError.of("resume.token_ids", problem)
        is_full = len(token_ids) >= request.max_tokens
        if not (is_full or is_stopped or piece.stop_text is not None):
            return None
        self._first_s = time.monotonic()
        response = self._of_output_start(router_pb2.GenerateResponse())
        self._end(
            response, piece, FinishReason.STOP if is_stopped else FinishReason.LENGTH, token_ids[-1], self._first_s
        )
        return response

    def _of_output_start(self, response: router_pb2.GenerateResponse) -> router_pb2.GenerateResponse:
        """With what the output's first piece tells of the request."""
        response.num_prompt_tokens = len(self._checked.request.prompt_token_ids)
        response.num_resumed_tokens = len(self._checked.request.resumed_token_ids)
        response.numerics = self._checked.numerics
        return response

    def of_prompt(self, step: Step) -> Iterator[router_pb2.GenerateResponse]:
        """How far the prompt is read, and what was found out of its tokens: few in a piece, since each takes its time."""
        found = step.prompt_log_probs
        last = max(len(found) - 1, 0) // _NUM_PROMPT_TOKENS_AT_ONCE
        for number in range(last + 1):
            start = number * _NUM_PROMPT_TOKENS_AT_ONCE
            tells_progress = number == last and self._checked.request.wants_prompt_progress
            yield router_pb2.GenerateResponse(
                num_prompt_tokens_read=step.num_prompt_tokens_read if tells_progress else 0,
                prompt_tokens=self._prompt.add(found[start : start + _NUM_PROMPT_TOKENS_AT_ONCE]),
            )

    def of_step(self, step: Step) -> tuple[Step, router_pb2.GenerateResponse]:
        """The step as far as it is output, and its message."""
        now_s = time.monotonic()
        is_first = self._first_s is None
        self._first_s = self._first_s or now_s
        piece = self._stream.add(
            [token.token_id for token in step.tokens],
            ends_with_stop_token=step.finish_reason is FinishReason.STOP,
        )
        step = _cut(step, len(piece.token_texts))
        self._statistics.add(step)
        response = router_pb2.GenerateResponse(
            tokens=[
                _token_to_proto(token, text, self._tokenizer)
                for token, text in zip(step.tokens, piece.token_texts, strict=True)
            ],
            text=piece.text,
            prompt_tokens=self._prompt.rest(),
        )
        if is_first:
            self._of_output_start(response)
        if self._checked.wants_step_details:
            response.step_details.CopyFrom(step_details_of(step, self._tokenizer))
        if step.finish_reason is not None or piece.stop_text is not None:
            last_token_id = step.tokens[-1].token_id if step.tokens else None
            self._end(response, piece, step.finish_reason, last_token_id, now_s)
        return step, response

    def _end(
        self,
        response: router_pb2.GenerateResponse,
        piece: TextPiece,
        finish_reason: FinishReason | None,
        last_token_id: int | None,
        now_s: float,
    ) -> None:
        self.has_ended = True
        first_s = self._first_s or now_s
        _set_end(response, self._stream, piece, finish_reason, last_token_id, self._checked.stop_text_of_token)
        response.usage.CopyFrom(_usage_of(self._checked, self._statistics))
        response.usage.first_token_ms = (first_s - self._arrived_s) * 1e3
        response.usage.decode_ms = (now_s - first_s) * 1e3


def _cut(step: Step, num_tokens: int) -> Step:
    """What follows a stop text in a step is no output."""
    if num_tokens == len(step.tokens) >= step.num_steps:
        return step
    num_steps, accepted_depth = (min(count, num_tokens) for count in (step.num_steps, step.accepted_depth))
    return replace(step, tokens=step.tokens[:num_tokens], accepted_depth=accepted_depth, num_steps=num_steps)


def _set_end(
    response: router_pb2.GenerateResponse,
    stream: TextStream,
    piece: TextPiece,
    finish_reason: FinishReason | None,
    last_token_id: int | None,
    stop_text_of_token: Mapping[int, str],
) -> None:
    """In the last piece: the rest of the text, and what ended the output."""
    stop_text = piece.stop_text
    if stop_text is None:
        rest = stream.finish()
        response.text += rest.text
        stop_text = rest.stop_text
    stop_token_id = last_token_id if finish_reason is FinishReason.STOP else None
    if stop_text is None and stop_token_id is not None:
        stop_text = stop_text_of_token.get(stop_token_id)
    if stop_text is not None:
        response.stop_reason.text = stop_text
    elif stop_token_id is not None:
        response.stop_reason.token_id = stop_token_id
    is_stopped = response.HasField("stop_reason")
    response.finish_reason = router_pb2.FINISH_REASON_STOP if is_stopped else router_pb2.FINISH_REASON_LENGTH


def _token_to_proto(token: CommittedToken, text: str, tokenizer: Tokenizer) -> router_pb2.GeneratedToken:
    proto = router_pb2.GeneratedToken(token_id=token.token_id, text=text, drafted_by=token.drafted_by)
    if token.log_probs is not None:
        proto.token_bytes = tokenizer.token_bytes(token.token_id)
        proto.log_probs.CopyFrom(log_probs_to_proto(token.log_probs, tokenizer))
    return proto


def _usage_of(checked: CheckedRequest, statistics: GenerationStatistics) -> router_pb2.Usage:
    return router_pb2.Usage(
        num_prompt_tokens=len(checked.request.prompt_token_ids),
        num_output_tokens=len(checked.request.resumed_token_ids) + statistics.num_output_tokens,
        num_resumed_tokens=len(checked.request.resumed_token_ids),
        num_verify_steps=statistics.num_verify_steps,
        acceptance_histogram=statistics.acceptance_histogram,
        drafted_by_depth=statistics.drafted_by_depth,
        accepted_by_depth=statistics.accepted_by_depth,
        num_drafted_nodes=statistics.num_drafted_nodes,
        draft_ms=statistics.draft_ms,
        verify_ms=statistics.verify_ms,
        num_replays=statistics.num_replays,
        seed=checked.request.sampling.seed,
        num_cached_prompt_tokens=min(statistics.num_cached_tokens, len(checked.request.prompt_token_ids)),
    )

"""``/v1/chat/completions``: how its answers are written."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from router.http.answers import DONE, Json
from router.http.bodies import StreamOptions
from router.http.heads import Head
from router.http.log_probs import chat_log_probs, prompt_log_probs
from router.http.outputs import Piece, prompt_tokens_of, totals_json
from router.http.stream_usage import StreamUsage
from router.http.tool_calls import CallHead, CallPiece, ToolCall, ToolCallReader, whole_calls
from specgrove.v1 import router_pb2


class ChatFormat:
    """One per request. ``readers`` look for calls in the outputs, each in its own; without them all is text."""

    end = DONE

    def __init__(
        self,
        head: Head,
        *,
        num_outputs: int,
        readers: Sequence[ToolCallReader],
        has_log_probs: bool,
        has_prompt_log_probs: bool,
        stream_options: StreamOptions | None,
    ) -> None:
        self._head = head
        self._chunk_head = head.fields("chat.completion.chunk")
        self._num_outputs = num_outputs
        self._has_log_probs = has_log_probs
        self._has_prompt_log_probs = has_prompt_log_probs
        self._usage = StreamUsage(stream_options, num_outputs)
        self._readers = readers

    def opening(self) -> Iterable[Json]:
        """Who speaks, for each output."""
        for index in range(self._num_outputs):
            delta = {"role": "assistant", "content": ""}
            yield self._chunk_of(index, {"index": index, "delta": delta, "logprobs": None, "finish_reason": None})

    def chunks(self, piece: Piece) -> Iterable[Json]:
        """None while a character, a possible stop text or the beginning of a call is incomplete. A call's head is a chunk of its own."""
        text, calls = self._read(piece)
        log_probs = self._log_probs_of(piece.tokens)
        self._usage.add(piece)
        if piece.usage is None and not text and not calls and log_probs is None:
            return
        deltas: list[Json] = [{"content": text}] if text else []
        deltas += ({"tool_calls": [_piece_json(call)]} for call in calls)
        *before, last = deltas or [{}]
        for delta in before:
            yield self._chunk_of(
                piece.index, {"index": piece.index, "delta": delta, "logprobs": None, "finish_reason": None}
            )
        choice = {"index": piece.index, "delta": last, "logprobs": log_probs, "finish_reason": self._reason_of(piece)}
        yield self._chunk_of(piece.index, choice | _end_of(piece))

    def closing(self) -> Iterable[Json]:
        """The usage, where it is asked for."""
        yield from self._usage.closing(self._chunk_head)

    def whole(self, pieces: Sequence[Piece]) -> Json:
        """The chunks of each output put together."""
        texts = [""] * self._num_outputs
        calls: list[list[CallPiece]] = [[] for _ in texts]
        tokens: list[list[router_pb2.GeneratedToken]] = [[] for _ in texts]
        ends: dict[int, Piece] = {}
        for piece in pieces:
            text, found = self._read(piece)
            texts[piece.index] += text
            calls[piece.index] += found
            tokens[piece.index] += piece.tokens
            if piece.usage is not None:
                ends[piece.index] = piece
        choices = [
            {
                "index": index,
                "message": _message(texts[index], whole_calls(calls[index])),
                "logprobs": self._log_probs_of(tokens[index]),
                "finish_reason": self._reason_of(end),
            }
            | _end_of(end)
            for index, end in sorted(ends.items())
        ]
        usages = [(index, end.usage) for index, end in ends.items() if end.usage is not None]
        answer: Json = {
            **self._head.fields("chat.completion"),
            "choices": choices,
            **totals_json(usages, self._num_outputs),
        }
        if self._has_prompt_log_probs:  # all outputs have one prompt
            answer["prompt_logprobs"] = prompt_log_probs(prompt_tokens_of(pieces, self._num_outputs)[0])
        return answer

    def _read(self, piece: Piece) -> tuple[str, list[CallPiece]]:
        if not self._readers:
            return piece.text, []
        return self._readers[piece.index].add(piece.text, is_end=piece.usage is not None)

    def _reason_of(self, piece: Piece) -> str | None:
        is_call = piece.finish_reason == "stop" and self._readers and self._readers[piece.index].num_calls
        return "tool_calls" if is_call else piece.finish_reason

    def _log_probs_of(self, tokens: Sequence[router_pb2.GeneratedToken]) -> Json | None:
        return chat_log_probs(tokens) if self._has_log_probs and tokens else None

    def _chunk_of(self, index: int, choice: Json) -> Json:
        return {**self._chunk_head, "choices": [choice], **self._usage.of_chunk(index)}


def _message(text: str, calls: Sequence[ToolCall]) -> Json:
    message: Json = {"role": "assistant", "content": text if text or not calls else None, "refusal": None}
    if calls:
        message["tool_calls"] = [_call_json(call) for call in calls]
    return message


def _call_json(call: ToolCall) -> Json:
    return {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}


def _piece_json(piece: CallPiece) -> Json:
    if isinstance(piece, CallHead):
        return {"index": piece.number, **_call_json(ToolCall(piece.id, piece.name, ""))}
    return {"index": piece.number, "function": {"arguments": piece.text}}


def _end_of(piece: Piece) -> Json:
    return {} if piece.usage is None else {"stop_reason": piece.stop_reason, "seed": piece.usage.seed}

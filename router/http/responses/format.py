"""How answers of ``/v1/responses`` are written: as events with types, which build the items that a whole answer has.

Invariant: what the events add up to is the whole answer; every item that is added is done before the next one is added.
"""

from __future__ import annotations

import itertools
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence

from router.http.answers import Json
from router.http.asking import DEFAULT_TEMPERATURE
from router.http.heads import Head
from router.http.outputs import Piece, usage_json
from router.http.responses.bodies import ResponsesBody
from router.http.tool_calls import CallHead, ToolCallReader, is_object


class ResponsesFormat:
    """One per request. ``reader`` looks for calls of tools; without it all is text. ``recommended`` counts where the body says nothing."""

    end = b""

    def __init__(
        self, head: Head, body: ResponsesBody, reader: ToolCallReader | None, recommended: Mapping[str, float]
    ) -> None:
        self._head = head
        self._asked = _asked_json(body, recommended)
        self._reader = reader
        self._numbers = itertools.count()
        self._output: list[Json] = []
        self._text_parts: list[str] = []
        self._item_id: str | None = None  # of the message or the call that is being written
        self._call: CallHead | None = None  # where it is a call
        self._end: Piece | None = None

    def opening(self) -> Iterable[Json]:
        """That there is an answer, and that it is being made."""
        for kind in ("created", "in_progress"):
            yield self._event(f"response.{kind}", response=self._response("in_progress"))

    def chunks(self, piece: Piece) -> Iterator[Json]:
        """What the piece adds to an item, and the items that it begins or ends."""
        is_last = piece.usage is not None
        text, calls = (piece.text, []) if self._reader is None else self._reader.add(piece.text, is_end=is_last)
        if text:
            yield from self._begin_message()
            self._text_parts.append(text)
            yield self._of_text("response.output_text.delta", delta=text, logprobs=[])
        for call in calls:
            if isinstance(call, CallHead):
                yield from self._begin_call(call)
            else:
                self._text_parts.append(call.text)
                yield self._of_call("response.function_call_arguments.delta", delta=call.text)
        if is_last:
            self._end = piece

    def closing(self) -> Iterator[Json]:
        """The end of the last item, and the whole answer."""
        if not self._output:
            yield from self._begin_message()  # that says nothing
        yield from self._end_item(self._status)
        yield self._event(f"response.{self._status}", response=self._response(self._status))

    def whole(self, pieces: Sequence[Piece]) -> Json:
        """What the events of the pieces add up to."""
        for piece in pieces:
            list(self.chunks(piece))
        list(self.closing())
        return self._response(self._status)

    @property
    def _status(self) -> str:
        return "incomplete" if self._end is not None and self._end.finish_reason == "length" else "completed"

    def _begin_message(self) -> Iterator[Json]:
        if self._item_id is not None and self._call is None:
            return
        yield from self._end_item("completed")
        self._item_id = f"msg_{uuid.uuid4().hex}"
        self._output.append(self._message("in_progress", []))
        yield self._of_item("response.output_item.added")
        yield self._of_text("response.content_part.added", part=_part(""))

    def _begin_call(self, call: CallHead) -> Iterator[Json]:
        yield from self._end_item("completed")
        self._item_id, self._call = f"fc_{uuid.uuid4().hex}", call
        self._output.append(self._function_call(call, "in_progress", ""))
        yield self._of_item("response.output_item.added")

    def _end_item(self, status: str) -> Iterator[Json]:
        if self._item_id is None:
            return
        text = "".join(self._text_parts)
        if self._call is not None:
            # What the model has broken off is not what it wanted to ask for, whatever came behind it.
            self._output[-1] = self._function_call(self._call, "completed" if is_object(text) else "incomplete", text)
            yield self._of_call("response.function_call_arguments.done", name=self._call.name, arguments=text)
        else:
            self._output[-1] = self._message(status, [_part(text)])
            yield self._of_text("response.output_text.done", text=text, logprobs=[])
            yield self._of_text("response.content_part.done", part=_part(text))
        yield self._of_item("response.output_item.done")
        self._item_id = self._call = None
        self._text_parts.clear()

    def _function_call(self, call: CallHead, status: str, arguments: str) -> Json:
        place = {"type": "function_call", "id": self._item_id, "call_id": call.id, "name": call.name}
        return {**place, "arguments": arguments, "status": status}

    def _message(self, status: str, parts: list[Json]) -> Json:
        return {"type": "message", "id": self._item_id, "status": status, "role": "assistant", "content": parts}

    def _event(self, kind: str, **values: object) -> Json:
        return {"type": kind, "sequence_number": next(self._numbers), **values}

    def _of_item(self, kind: str) -> Json:
        return self._event(kind, output_index=len(self._output) - 1, item=self._output[-1])

    def _of_text(self, kind: str, **values: object) -> Json:
        place = {"item_id": self._item_id, "output_index": len(self._output) - 1, "content_index": 0}
        return self._event(kind, **place, **values)

    def _of_call(self, kind: str, **values: object) -> Json:
        return self._event(kind, item_id=self._item_id, output_index=len(self._output) - 1, **values)

    def _response(self, status: str) -> Json:
        return {
            "id": self._head.id,
            "object": "response",
            "created_at": self._head.created_s,
            "status": status,
            "error": None,
            "incomplete_details": {"reason": "max_output_tokens"} if status == "incomplete" else None,
            "model": self._head.model,
            "output": list(self._output),
            "usage": None if self._end is None else _usage_json(self._end),
            **self._asked,
        }


def _asked_json(body: ResponsesBody, recommended: Mapping[str, float]) -> Json:
    """What was asked, as far as answers repeat it."""
    return {
        "instructions": body.instructions,
        "max_output_tokens": body.max_output_tokens,
        "metadata": body.metadata or {},
        "parallel_tool_calls": body.parallel_tool_calls,
        "previous_response_id": None,
        "store": False,
        "temperature": recommended.get("temperature", DEFAULT_TEMPERATURE)
        if body.temperature is None
        else body.temperature,
        "text": {"format": (body.text or {}).get("format") or {"type": "text"}},
        "tool_choice": body.tool_choice or "auto",
        "tools": body.tools or [],
        "top_p": recommended.get("top_p", 1.0) if body.top_p is None else body.top_p,
        "truncation": "disabled",
    }


def _part(text: str) -> Json:
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": []}


def _usage_json(end: Piece) -> Json:
    assert end.usage is not None
    usage = usage_json([(0, end.usage)], 1)
    return {
        "input_tokens": usage["prompt_tokens"],
        "input_tokens_details": {"cached_tokens": end.usage.num_cached_prompt_tokens, "cache_write_tokens": 0},
        "output_tokens": usage["completion_tokens"],
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": usage["total_tokens"],
    }

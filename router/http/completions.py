"""``/v1/completions``: how its answers are written."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from router.http.answers import DONE, Json
from router.http.bodies import StreamOptions
from router.http.heads import Head
from router.http.log_probs import completion_log_probs, prompt_log_probs, text_end
from router.http.outputs import Piece, prompt_tokens_of, totals_json
from router.http.stream_usage import StreamUsage


class CompletionFormat:
    """One per request. ``echoes`` are the prompts' texts where they are to lead the outputs; else there are none."""

    end = DONE

    def __init__(
        self,
        head: Head,
        *,
        num_per_prompt: int,
        echoes: Sequence[str],
        has_log_probs: bool,
        has_prompt_log_probs: bool,
        stream_options: StreamOptions | None,
    ) -> None:
        """``has_prompt_log_probs``: vLLM's list of them; with an echo ``has_log_probs`` is about the prompt's tokens, too."""
        self._head = head.fields("text_completion")
        self._num_per_prompt = num_per_prompt
        self._echoes = echoes
        self._has_log_probs = has_log_probs
        self._has_prompt_log_probs = has_prompt_log_probs
        self._usage = StreamUsage(stream_options, num_per_prompt)
        self._text_lens: dict[int, int] = {}
        self._prompt_lens: dict[int, int] = {}

    def opening(self) -> Iterable[Json]:
        """The prompts, where they are to be repeated."""
        for index, text in enumerate(self._echo_of_each()):
            yield self._chunk_of(index, _choice(Piece(index, text), None))

    def chunks(self, piece: Piece) -> Iterable[Json]:
        """None while a character or a possible stop text is incomplete."""
        log_probs = self._log_probs_of(piece)
        self._usage.add(piece)
        if piece.usage is None and not piece.text and log_probs is None:
            return
        yield self._chunk_of(piece.index, _choice(piece, log_probs))

    def closing(self) -> Iterable[Json]:
        """The usage, where it is asked for."""
        yield from self._usage.closing(self._head)

    def whole(self, pieces: Sequence[Piece]) -> Json:
        """The chunks of each output put together."""
        echoes = self._echo_of_each()
        ends = sorted((piece for piece in pieces if piece.usage is not None), key=lambda piece: piece.index)
        texts = [echoes[piece.index] if echoes else "" for piece in ends]
        log_probs: list[dict[str, list[object]]] = [{} for _ in ends]
        for piece in pieces:
            texts[piece.index] += piece.text
            for name, values in (self._log_probs_of(piece) or {}).items():
                log_probs[piece.index].setdefault(name, []).extend(values)
        choices = [_choice(end, (log_probs[end.index] or None)) | {"text": texts[end.index]} for end in ends]
        if self._has_prompt_log_probs:
            for choice, tokens in zip(choices, prompt_tokens_of(pieces, len(choices)), strict=True):
                choice["prompt_logprobs"] = prompt_log_probs(tokens)
        usages = [(piece.index, piece.usage) for piece in ends if piece.usage is not None]
        return {**self._head, "choices": choices, **totals_json(usages, self._num_per_prompt)}

    def _echo_of_each(self) -> list[str]:
        return [text for text in self._echoes for _ in range(self._num_per_prompt)]

    def _log_probs_of(self, piece: Piece) -> dict[str, list[object]] | None:
        """Those of the prompt's tokens, where it is repeated, then those of the output's."""
        if not self._has_log_probs:
            return None
        found: dict[str, list[object]] = {}
        if self._echoes and piece.prompt_tokens:
            start = self._prompt_lens.get(piece.index, 0)
            echo = self._echoes[piece.index // self._num_per_prompt]
            self._prompt_lens[piece.index] = text_end(piece.prompt_tokens, start, echo)
            found = completion_log_probs(piece.prompt_tokens, start, echo)
        if piece.tokens:
            start = self._text_lens.get(piece.index, self._echo_len(piece.index))
            self._text_lens[piece.index] = text_end(piece.tokens, start)
            for name, values in completion_log_probs(piece.tokens, start).items():
                found.setdefault(name, []).extend(values)
        return found or None

    def _echo_len(self, index: int) -> int:
        return len(self._echoes[index // self._num_per_prompt]) if self._echoes else 0

    def _chunk_of(self, index: int, choice: Json) -> Json:
        return {**self._head, "choices": [choice], **self._usage.of_chunk(index)}


def _choice(piece: Piece, log_probs: Any) -> Json:
    choice: Json = {
        "index": piece.index,
        "text": piece.text,
        "logprobs": log_probs,
        "finish_reason": piece.finish_reason,
    }
    if piece.usage is not None:
        choice |= {"stop_reason": piece.stop_reason, "seed": piece.usage.seed}
    return choice

"""What a stream tells of its usage: nothing, at its end, or also in every chunk. Used by ``chat`` and ``completions``."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable

from router.http.answers import Json
from router.http.bodies import StreamOptions
from router.http.outputs import Piece, totals_json
from specgrove.v1 import router_pb2


class StreamUsage:
    """One per request; it is told each piece before the piece's chunks are written."""

    def __init__(self, options: StreamOptions | None, num_per_prompt: int) -> None:
        self._is_wanted = options is not None and options.include_usage
        # As vLLM has it, it counts only beside the other.
        self._is_continuous = self._is_wanted and options is not None and options.continuous_usage_stats
        self._num_per_prompt = num_per_prompt
        self._num_prompt_tokens: dict[int, int] = {}
        self._num_output_tokens: dict[int, int] = defaultdict(int)
        self._usages: dict[int, router_pb2.Usage] = {}

    def add(self, piece: Piece) -> None:
        """What the piece brings."""
        self._num_output_tokens[piece.index] += len(piece.tokens)
        if piece.num_prompt_tokens:
            self._num_prompt_tokens[piece.index] = piece.num_prompt_tokens
        if piece.usage is not None:
            self._usages[piece.index] = piece.usage
            self._num_prompt_tokens[piece.index] = piece.usage.num_prompt_tokens

    def of_chunk(self, index: int) -> Json:
        """Fields of a chunk of the output of this number: what that output has taken so far. It is null before the first piece."""
        if not self._is_wanted:
            return {}
        num_prompt = self._num_prompt_tokens.get(index)
        if not self._is_continuous or num_prompt is None:
            return {"usage": None}
        num_output = self._num_output_tokens[index]
        counts = {"prompt_tokens": num_prompt, "completion_tokens": num_output, "total_tokens": num_prompt + num_output}
        return {"usage": counts}

    def closing(self, head: Json) -> Iterable[Json]:
        """The chunk of the whole request's, where it is asked for."""
        if self._is_wanted:
            yield {**head, "choices": [], **totals_json(self._usages.items(), self._num_per_prompt)}

"""A prompt's tokens with their log-probabilities, as the LLM service tells them. One object per request, used by the servicer.

Invariant: each token is told once, in order; none where the request doesn't ask for them. The first one has no log-probabilities.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Self

from specgrove.loop.request import GenerationRequest
from specgrove.loop.works import LogProbs
from specgrove.tokenizer import Tokenizer
from specgrove.v1 import router_pb2, token_tree_pb2
from specgrove.wire import works


class PromptTokens:
    """``token_ids`` are those that are to be told."""

    def __init__(self, token_ids: Sequence[int], tokenizer: Tokenizer, *, keep_special_tokens: bool) -> None:
        self._token_ids = token_ids
        self._tokenizer = tokenizer
        self._detokenizer = tokenizer.detokenizer(keep_special_tokens=keep_special_tokens)
        self._num_told = 0

    @classmethod
    def of(cls, request: GenerationRequest, tokenizer: Tokenizer, *, keep_special_tokens: bool) -> Self:
        """All of the prompt's, or none."""
        token_ids = () if request.num_prompt_log_probs is None else request.prompt_token_ids
        return cls(token_ids, tokenizer, keep_special_tokens=keep_special_tokens)

    def add(self, log_probs: Sequence[LogProbs]) -> list[router_pb2.PromptToken]:
        """The next tokens, whose log-probabilities these are; the first one comes with the second."""
        if not log_probs:
            return []
        return [*self.rest(), *(self._next(entry) for entry in log_probs)]

    def rest(self) -> list[router_pb2.PromptToken]:
        """The first token, unless it was told: a prompt of one has nothing else to tell."""
        return [self._next(None)] if self._token_ids and self._num_told == 0 else []

    def _next(self, log_probs: LogProbs | None) -> router_pb2.PromptToken:
        token_id = self._token_ids[self._num_told]
        self._num_told += 1
        text = self._detokenizer.add(token_id)
        if self._num_told == len(self._token_ids):
            text += self._detokenizer.finish()
        proto = router_pb2.PromptToken(token_id=token_id, text=text, token_bytes=self._tokenizer.token_bytes(token_id))
        if log_probs is not None:
            proto.log_probs.CopyFrom(log_probs_to_proto(log_probs, self._tokenizer))
        return proto


def log_probs_to_proto(log_probs: LogProbs, tokenizer: Tokenizer) -> token_tree_pb2.LogProbs:
    """For clients: with what the most probable tokens stand for."""
    proto = works.log_probs_to_proto(log_probs)
    for entry in proto.top:
        entry.token_bytes = tokenizer.token_bytes(entry.token_id)
    return proto

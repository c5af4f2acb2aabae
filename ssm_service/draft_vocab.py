"""The token ids of an SSM that has a vocabulary of its own, against the LLM's. Used by ``NeuralSsm``."""

from __future__ import annotations

import torch


class DraftVocab:
    """Id 0 stands for everything the SSM doesn't know."""

    def __init__(self, draft_token_ids: torch.Tensor) -> None:
        """``draft_token_ids`` is int32 ``[draft_vocab_size]``: the LLM's id of each draft id, -1 for those never proposed.

        Raises ``ValueError`` for another shape or type, and for an id that stands there twice.
        """
        shape, dtype = list(draft_token_ids.shape), draft_token_ids.dtype
        if len(shape) != 1 or dtype not in (torch.int32, torch.int64):
            raise ValueError(f"a map of draft token ids is int32 [draft_vocab_size], not {dtype} {shape}")
        self._to_draft = {token_id: draft_id for draft_id, token_id in enumerate(draft_token_ids.tolist())}
        num_known = int((draft_token_ids >= 0).sum())
        if num_known != sum(token_id >= 0 for token_id in self._to_draft):
            raise ValueError("a map of draft token ids names each of the LLM's ids once at most")
        self._llm_ids = draft_token_ids.to(torch.int64, copy=True)
        self._llm_ids[0] = -1
        self.size = len(self._llm_ids)
        self.num_never_proposed = int((self._llm_ids < 0).sum())

    def to_draft(self, token_ids: list[int]) -> list[int]:
        """The ids to feed."""
        return [self._to_draft.get(token_id, 0) for token_id in token_ids]

    def to_llm(self, draft_ids: torch.Tensor) -> torch.Tensor:
        """The ids to propose, int64 of the same shape: -1 for those never proposed, and for what is no id."""
        return torch.where(draft_ids < 0, -1, self._llm_ids[draft_ids.clamp(min=0).long()])

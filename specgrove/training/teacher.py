"""The LLM as a teacher: many sequences at a time, one token of each, on the decoder that the LLM service runs.

Used by ``sampler``, ``outputs`` and ``answers``. So whatever is served can teach, in every format, and its logits and hidden states
are those that are served.
Invariant: row r owns the KV slots from ``r * max_len`` on, and what is behind a sequence's position in them counts as empty.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from specgrove.program.loading import load_decoder
from specgrove.runtime.hidden_values import rounded
from specgrove.runtime.model_runner import ModelRunner
from specgrove.runtime.pass_builder import PassBuilder, TreeRows

CHUNK_SIZE = 64  # of the vocabulary, for the two-step top-k


@dataclass(frozen=True, slots=True)
class TeacherStep:
    """What a step gives, of the fed rows in order."""

    logits: torch.Tensor  # float32 [num_rows, vocab_size]
    hidden: torch.Tensor | None  # bfloat16 [num_rows, num_layers * hidden_size], at the inputs of the asked layers


class Teacher:
    """``num_rows`` sequences of at most ``max_len`` tokens. ``hidden_layers``, rising: whose inputs are wanted, too."""

    def __init__(
        self,
        folder: Path,
        num_rows: int,
        max_len: int,
        hidden_layers: Sequence[int] = (),
        dtype: torch.dtype = torch.bfloat16,
        progress: Callable[[int, int], None] = lambda done, total: None,
    ) -> None:
        self._runner = ModelRunner(load_decoder(folder, dtype, progress, keep_hidden=hidden_layers), num_rows * max_len)
        self._slots = [range(row * max_len, (row + 1) * max_len) for row in range(num_rows)]

    def step(self, token_ids: Sequence[int], positions: Sequence[int]) -> TeacherStep:
        """Feeds each of the first rows its token at its position."""
        builder = PassBuilder()
        for slots, token_id, position in zip(self._slots, token_ids, positions, strict=False):
            builder.add(slots[: position + 1], [token_id], chunk_logits=True)
        return self._run(builder)

    def read(self, token_ids: Sequence[int], first: int) -> TeacherStep:
        """Feeds the first row so many tokens at once, from position ``first`` on: a row of what it gives for each token."""
        slots = self._slots[0]
        end = first + len(token_ids)
        builder = PassBuilder()
        chain = TreeRows(
            token_ids, range(-1, len(token_ids) - 1), slots[first:end]
        )  # of a chunk only the last row would be asked
        builder.add(slots[:first], (), chain)
        return self._run(builder)

    def _run(self, builder: PassBuilder) -> TeacherStep:
        output = self._runner.run(builder.build())
        hidden = rounded(torch.cat(output.hidden, dim=-1)).cpu() if output.hidden else None
        return TeacherStep(output.logits, hidden)


def top_log_probs(logits: torch.Tensor, count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The ``count`` highest log-probabilities of each row of ``logits`` ``[num_rows, vocab_size]``, descending, and their ids.

    Exact: the best ``count`` tokens stand in the ``count`` chunks with the highest maxima. Several times faster than ``topk``.
    """
    num_rows, vocab_size = logits.shape
    log_sum = torch.logsumexp(logits.float(), dim=-1, keepdim=True)
    if vocab_size % CHUNK_SIZE or vocab_size // CHUNK_SIZE < count:
        values, ids = logits.float().topk(count)
        return values - log_sum, ids
    chunks = logits.view(num_rows, -1, CHUNK_SIZE)
    chunk_ids = chunks.amax(dim=-1).topk(count).indices  # [num_rows, count]
    candidates = chunks.gather(1, chunk_ids[..., None].expand(-1, -1, CHUNK_SIZE)).flatten(1).float()
    values, places = candidates.topk(count)
    ids = chunk_ids.gather(1, places // CHUNK_SIZE) * CHUNK_SIZE + places % CHUNK_SIZE
    return values - log_sum, ids

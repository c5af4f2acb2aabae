"""How probable known tokens are, from logits on a GPU: a few numbers of each row come to the host, not its logits. Used by ``GraphRunner``.

Invariant: a row's numbers don't depend on the other rows. What ``known_tokens`` computes of the same logits may differ in the last bits.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch

from specgrove.kernels.cuda.choices import top_k_log_probs
from specgrove.kernels.sampling import KnownToken
from specgrove.loop.works import LogProbs


def log_probs_on_device(logits: torch.Tensor, known: Mapping[int, KnownToken]) -> list[LogProbs | None]:
    """Of the tokens after rows of ``logits``, float32 ``[num_rows, vocab_size]``, by their row; None where a row holds NaN."""
    if not known:
        return []
    rows = logits[list(known)]
    num_rows, vocab_size = rows.shape
    k = max(1, *(token.num_top for token in known.values()))
    log_probs = torch.empty((num_rows, k), device=rows.device)
    token_ids = torch.empty((num_rows, k), dtype=torch.int32, device=rows.device)
    top_k_log_probs(rows, k, log_probs, token_ids)
    wanted = torch.tensor([token.token_id for token in known.values()], device=rows.device)[:, None]
    own = rows.gather(1, wanted)
    is_before = (rows > own) | ((rows == own) & (torch.arange(vocab_size, device=rows.device) < wanted))
    ranks = (is_before.sum(1) + 1).tolist()
    # The best token's logit less its log-probability is what every token's logit is lessened by.
    own_log_probs = (own[:, 0] - (rows.amax(1) - log_probs[:, 0])).tolist()
    found: list[LogProbs | None] = []
    for token, rank, log_prob, ids, values in zip(
        known.values(), ranks, own_log_probs, token_ids.tolist(), log_probs.tolist(), strict=True
    ):
        if ids[0] < 0:
            found.append(None)
            continue
        top = tuple(zip(ids[: token.num_top], values, strict=False))
        # One that is among the most probable has the same bits as there.
        found.append(LogProbs(values[rank - 1] if rank <= k else log_prob, rank, top))
    return found

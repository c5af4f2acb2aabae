"""From rows of logits to tokens, on a GPU."""

from __future__ import annotations

import torch

from specgrove.kernels.checks import check
from specgrove.kernels.cuda.backend import backend


def choose(
    logits: torch.Tensor, temperatures: torch.Tensor, seeds: torch.Tensor, positions: torch.Tensor, out: torch.Tensor
) -> None:
    """For each row the choice that ``specgrove.kernels.sampling.RowChoice`` describes, to ``out``, int64 ``[num_rows]``.

    ``logits`` is float32 ``[num_rows, vocab_size]``, ``temperatures`` float32 (0: greedy), ``seeds`` and ``positions`` int64, each
    ``[num_rows]``. Instead of a token id there may be ``NOT_A_NUMBER`` or ``ALL_BANNED`` of ``specgrove.kernels.model_step``.
    """
    module, stream = backend(logits, temperatures, seeds, positions, out)
    num_rows, vocab_size = logits.shape
    check(logits, "logits", torch.float32, num_rows, vocab_size)
    check(temperatures, "temperatures", torch.float32, num_rows)
    check(seeds, "seeds", torch.int64, num_rows)
    check(positions, "positions", torch.int64, num_rows)
    check(out, "out", torch.int64, num_rows)
    addresses = (tensor.data_ptr() for tensor in (logits, temperatures, seeds, positions))
    module.choose(*addresses, num_rows, vocab_size, out.data_ptr(), stream)

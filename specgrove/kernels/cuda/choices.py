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
    ``[num_rows]``. Instead of a token id there may be ``NOT_A_NUMBER`` or ``ALL_BANNED`` of ``specgrove.kernels.rows``.
    """
    module, stream = backend(logits, temperatures, seeds, positions, out)
    num_rows, vocab_size = logits.shape
    check(logits, "logits", torch.float32, num_rows, vocab_size)
    check(temperatures, "temperatures", torch.float32, num_rows)
    check(seeds, "seeds", torch.int64, num_rows)
    check(positions, "positions", torch.int64, num_rows)
    check(out, "out", torch.int64, num_rows)
    module.choose(
        logits=logits.data_ptr(),
        temperatures=temperatures.data_ptr(),
        seeds=seeds.data_ptr(),
        positions=positions.data_ptr(),
        num_rows=num_rows,
        vocab_size=vocab_size,
        out=out.data_ptr(),
        stream=stream,
    )


def take_choices(token_ids: torch.Tensor, choices: torch.Tensor) -> None:
    """Puts choices that only the device knows into the rows that follow them, in place.

    ``token_ids`` is int32 ``[num_rows]``: an id below 0 stands for a choice, -1 for ``choices[0]`` and so on, which must be there.
    ``choices`` is int64, as ``choose`` leaves them; what is no token becomes id 0.
    """
    module, stream = backend(token_ids, choices)
    check(token_ids, "token_ids", torch.int32, None)
    check(choices, "choices", torch.int64, None)
    module.take_choices(
        token_ids=token_ids.data_ptr(), num_rows=token_ids.shape[0], choices=choices.data_ptr(), stream=stream
    )


def top_k_log_probs(logits: torch.Tensor, k: int, log_probs: torch.Tensor, token_ids: torch.Tensor) -> None:
    """The k most probable tokens of each row, most probable first, ties to the lower id; see ``specgrove.kernels.sampling``.

    ``logits`` is float32 ``[num_rows, vocab_size]``; ``log_probs`` float32 and ``token_ids`` int32, both ``[num_rows, k]``. A row of which
    no distribution can be made (a NaN or positive infinity in it, or minus infinity everywhere) gets ids of -1 and log-probabilities of
    NaN: to raise would wait for the device.
    """
    module, stream = backend(logits, log_probs, token_ids)
    num_rows, vocab_size = logits.shape
    if not 1 <= k <= vocab_size:
        raise ValueError(f"k must be from 1 to {vocab_size}, got {k}")
    check(logits, "logits", torch.float32, num_rows, vocab_size)
    check(log_probs, "log_probs", torch.float32, num_rows, k)
    check(token_ids, "token_ids", torch.int32, num_rows, k)
    module.top_k_log_probs(
        logits=logits.data_ptr(),
        num_rows=num_rows,
        vocab_size=vocab_size,
        k=k,
        log_probs=log_probs.data_ptr(),
        token_ids=token_ids.data_ptr(),
        stream=stream,
    )

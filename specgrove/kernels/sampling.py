"""From logits to tokens: the verifier's one choice per node by shared-randomness sampling, and the drafters' top-k.

The choice is ``argmax(target_logprobs + gumbel(seed, position, token_id))``, an exact sample of the target distribution
(Gumbel-max), and the same one whoever asks: see docs/sampling.md.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch

from specgrove.kernels import _native
from specgrove.kernels.checks import check


@dataclass(frozen=True, slots=True)
class ChoiceParams:
    """How logits become the target distribution. 0 turns top-k, min-p and the additive penalties off, 1 the others."""

    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    seed: int = 0
    native: _native.ChoiceParams = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        native = _native.ChoiceParams(
            self.temperature,
            self.top_k,
            self.top_p,
            self.min_p,
            self.repetition_penalty,
            self.presence_penalty,
            self.frequency_penalty,
            self.seed,
        )
        object.__setattr__(self, "native", native)

    @property
    def is_of_all(self) -> bool:
        """Whether all tokens take part and no penalty changes their logits."""
        is_cut = self.temperature > 0 and (self.top_k > 0 or self.top_p < 1 or self.min_p > 0)
        penalties = (self.repetition_penalty, self.presence_penalty, self.frequency_penalty)
        return not is_cut and penalties == (1, 0, 0)


@dataclass(frozen=True, slots=True)
class RowChoice:
    """Asks a forward pass for one row's choice: ``choose`` of its logits without adjustments, by temperature and seed only."""

    params: ChoiceParams
    position: int

    def __post_init__(self) -> None:
        if not self.params.is_of_all:
            raise ValueError("a forward pass makes no choice with top_k, top_p, min_p or penalties")


@dataclass(frozen=True, slots=True)
class KnownToken:
    """Asks a forward pass how probable the token after a row is, which is known, and for the ``num_top`` most probable ones."""

    token_id: int
    num_top: int


@dataclass(frozen=True, slots=True)
class TokenAdjustments:
    """What changes single tokens' logits at one position. All ids are distinct within their tensor, int64 ``[n]``."""

    seen_token_ids: torch.Tensor | None = None  # of prompt and output: repetition penalty
    output_token_ids: torch.Tensor | None = None  # of the output: presence and frequency penalty
    output_counts: torch.Tensor | None = None  # int64, one per output token id
    bias_token_ids: torch.Tensor | None = None
    bias: torch.Tensor | None = None  # float32, one per bias token id
    banned_token_ids: torch.Tensor | None = None


NO_ADJUSTMENTS = TokenAdjustments()


def choose(
    logits: torch.Tensor, params: ChoiceParams, position: int, adjustments: TokenAdjustments = NO_ADJUSTMENTS
) -> int:
    """The token that follows; ``logits`` is float32 ``[vocab_size]``, ``position`` its place in the sequence.

    In this order: bias, repetition penalty, presence and frequency penalties, bans, then at temperature 0 the largest logit
    (ties to the lower id), else temperature, top-k, top-p, min-p and the noise. Raises ``ValueError`` for NaN logits and when
    every token is banned.
    """
    return _native.choose(_native_input(logits, adjustments), params.native, position)


def processed_log_probs(
    logits: torch.Tensor, params: ChoiceParams, adjustments: TokenAdjustments = NO_ADJUSTMENTS
) -> torch.Tensor:
    """The target distribution at a temperature above 0: float32 ``[vocab_size]``, minus infinity for tokens that are out."""
    out = torch.empty_like(logits)
    _native.processed_log_probs(_native_input(logits, adjustments), params.native, out.data_ptr())
    return out


def _native_input(logits: torch.Tensor, adjustments: TokenAdjustments) -> _native.ChoiceInput:
    check(logits, "logits", torch.float32, None)
    a = adjustments
    return _native.ChoiceInput(
        logits.data_ptr(),
        logits.shape[0],
        *_span(a.seen_token_ids),
        _span(a.output_token_ids)[0],
        *_span(a.output_counts),
        _span(a.bias_token_ids)[0],
        *_span(a.bias),
        *_span(a.banned_token_ids),
    )


def _span(tensor: torch.Tensor | None) -> tuple[int, int]:
    return (0, 0) if tensor is None else (tensor.data_ptr(), tensor.shape[0])


def gumbel_noise(seed: int, position: int, token_ids: torch.Tensor) -> torch.Tensor:
    """Standard Gumbel noise, float32 ``[n]``, of int64 token ids: a pure function of (seed, position, token id)."""
    check(token_ids, "token_ids", torch.int64, None)
    out = torch.empty(token_ids.shape[0])
    _native.gumbel_noise(seed, position, token_ids.data_ptr(), token_ids.shape[0], out.data_ptr())
    return out


def greedy_choices(logits: torch.Tensor) -> torch.Tensor:
    """The largest logit's id, ties to the lower: float32 ``[num_rows, vocab_size]`` to int32 ``[num_rows]``."""
    check(logits, "logits", torch.float32, None, None)
    out = torch.empty(logits.shape[0], dtype=torch.int32)
    _native.greedy_choices(logits.data_ptr(), logits.shape[0], logits.shape[1], out.data_ptr())
    return out


def top_k_log_probs(logits: torch.Tensor, k: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The k most probable tokens of each row, most probable first, ties to the lower id.

    float32 ``[num_rows, vocab_size]`` to log-probabilities float32 ``[num_rows, k]`` and ids int64 ``[num_rows, k]``.
    """
    check(logits, "logits", torch.float32, None, None)
    num_rows, vocab_size = logits.shape
    if not 1 <= k <= vocab_size:
        raise ValueError(f"k must be from 1 to {vocab_size}, got {k}")
    values, token_ids = torch.empty((num_rows, k)), torch.empty((num_rows, k), dtype=torch.int64)
    _native.top_k_log_probs(logits.data_ptr(), num_rows, vocab_size, k, values.data_ptr(), token_ids.data_ptr())
    return values, token_ids


def log_prob_of(logits: torch.Tensor, token_id: int) -> float:
    """The log-probability of one token under ``softmax(logits)``; ``logits`` is float32 ``[vocab_size]``."""
    check(logits, "logits", torch.float32, None)
    return float(logits[token_id]) - _native.log_sum_exp(logits.data_ptr(), logits.shape[0])

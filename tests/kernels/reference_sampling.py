"""Noise, choices and log-probabilities in pure torch: slow, obviously correct, and what the native ones are tested against.

Where bits are promised (the noise) these are the same float32 operations in the same order as in csrc/cpu.
"""

from __future__ import annotations

import torch

from specgrove.kernels.sampling import NO_ADJUSTMENTS, ChoiceParams, TokenAdjustments

_UINT32 = 0xFFFFFFFF


def gumbel_noise(seed: int, position: int, token_ids: torch.Tensor) -> torch.Tensor:
    """See ``specgrove.kernels.sampling``: the same bits. Definition: csrc/cpu/sampling.h."""
    words = philox4x32(
        torch.stack(
            [
                token_ids >> 2,
                torch.zeros_like(token_ids),
                torch.full_like(token_ids, position & _UINT32),
                torch.full_like(token_ids, position >> 32),
            ]
        ),
        seed & _UINT32,
        seed >> 32,
    )
    bits = words.gather(0, (token_ids & 3)[None])[0] >> 9
    uniform = (bits.float() + 0.5) * 2.0**-23
    return -log_of(-log_of(uniform))


def philox4x32(counters: torch.Tensor, key0: int, key1: int) -> torch.Tensor:
    """Philox4x32-10 (Salmon et al., 2011); int64 ``[4, n]`` holding uint32 values, in and out."""
    c0, c1, c2, c3 = counters
    for _ in range(10):
        high0, low0 = _product(0xD2511F53, c0)
        high1, low1 = _product(0xCD9E8D57, c2)
        c0, c1, c2, c3 = high1 ^ c1 ^ key0, low1, high0 ^ c3 ^ key1, low0
        key0, key1 = (key0 + 0x9E3779B9) & _UINT32, (key1 + 0xBB67AE85) & _UINT32
    return torch.stack([c0, c1, c2, c3])


def _product(factor: int, values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Upper and lower 32 bits of a 64-bit product, by halves: int64 has no room for the whole."""
    low = factor * (values & 0xFFFF)
    high = factor * (values >> 16) + (low >> 16)
    return high >> 16, (high & 0xFFFF) << 16 | (low & 0xFFFF)


def log_of(x: torch.Tensor) -> torch.Tensor:
    """``log_of`` of csrc/cpu/vector_math.h, operation by operation; float32."""
    bits = x.view(torch.int32)
    offset = bits - 0x3F3504F3
    exponent = offset >> 23
    mantissa = ((offset & 0x7FFFFF) + 0x3F3504F3).view(torch.float32)
    f = mantissa - 1.0
    s = f / (2.0 + f)
    z = s * s
    poly = z * _f32(0.1555555611) + _f32(0.1818357216)
    for coefficient in (0.2222219843, 0.2857142874, 0.4, 0.6666666667):
        poly = poly * z + _f32(coefficient)
    e = exponent.float()
    half_square = 0.5 * f * f
    low = s * (half_square + z * poly) + e * _f32(9.0580006145e-6)
    return e * _f32(0.6931381226) - ((half_square - low) - f)


def _f32(value: float) -> torch.Tensor:
    return torch.tensor(value, dtype=torch.float32)


def processed_log_probs(
    logits: torch.Tensor, params: ChoiceParams, adjustments: TokenAdjustments = NO_ADJUSTMENTS
) -> torch.Tensor:
    """See ``specgrove.kernels.sampling``; by a full sort, float64."""
    logits = _adjusted(logits, params, adjustments).double() / params.temperature
    order = logits.sort(descending=True, stable=True).indices
    order = order[logits[order] > -torch.inf]
    if params.top_k > 0:
        order = order[: params.top_k]
    probabilities = torch.softmax(logits[order], dim=0)
    if params.top_p < 1:
        reached = torch.cumsum(probabilities, dim=0) >= params.top_p
        count = int(reached.int().argmax()) + 1 if reached.any() else len(order)
        order, probabilities = order[:count], probabilities[:count]
    kept = order[probabilities >= params.min_p * probabilities[0]]
    out = torch.full_like(logits, -torch.inf)
    out[kept] = torch.log_softmax(logits[kept], dim=0)
    return out


def choose(
    logits: torch.Tensor, params: ChoiceParams, position: int, adjustments: TokenAdjustments = NO_ADJUSTMENTS
) -> int:
    """See ``specgrove.kernels.sampling``."""
    if params.temperature == 0:
        return int(_adjusted(logits, params, adjustments).argmax())
    noise = gumbel_noise(params.seed, position, torch.arange(len(logits)))
    return int((processed_log_probs(logits, params, adjustments) + noise.double()).argmax())


def _adjusted(logits: torch.Tensor, params: ChoiceParams, adjustments: TokenAdjustments) -> torch.Tensor:
    logits, a = logits.clone(), adjustments
    if a.bias_token_ids is not None and a.bias is not None:
        logits[a.bias_token_ids] += a.bias
    if a.seen_token_ids is not None:
        seen = logits[a.seen_token_ids]
        penalised = torch.where(seen > 0, seen / params.repetition_penalty, seen * params.repetition_penalty)
        logits[a.seen_token_ids] = penalised
    if a.output_token_ids is not None and a.output_counts is not None:
        logits[a.output_token_ids] -= params.frequency_penalty * a.output_counts + params.presence_penalty
    if a.banned_token_ids is not None:
        logits[a.banned_token_ids] = -torch.inf
    return logits


def greedy_choices(logits: torch.Tensor) -> torch.Tensor:
    """See ``specgrove.kernels.sampling``."""
    return logits.argmax(dim=-1).int()


def top_k_log_probs(logits: torch.Tensor, k: int) -> tuple[torch.Tensor, torch.Tensor]:
    """See ``specgrove.kernels.sampling``; float64, by a stable sort."""
    log_probs = torch.log_softmax(logits.double(), dim=-1)
    values, ids = log_probs.sort(dim=-1, descending=True, stable=True)
    return values[:, :k], ids[:, :k]


def log_prob_of(logits: torch.Tensor, token_id: int) -> float:
    """See ``specgrove.kernels.sampling``."""
    return float(torch.log_softmax(logits.double(), dim=-1)[token_id])

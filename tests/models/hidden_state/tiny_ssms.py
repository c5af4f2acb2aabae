"""Tiny SSMs that read hidden states, with random weights."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch

from specgrove.models.decoder.rotary_spec import RotarySpec
from specgrove.models.hidden_state.module import HiddenStateModule
from specgrove.models.hidden_state.spec import Calibration, HiddenSsmSpec

TINY = HiddenSsmSpec(
    hidden_size=64,
    target_hidden_size=64,
    intermediate_size=96,
    num_heads=4,
    num_kv_heads=2,
    head_dim=16,
    norm_eps=1e-5,
    rotary=RotarySpec(10000.0),
    max_position_embeddings=128,
    vocab_size=120,
    hidden_layers=(1, 2, 3),
    hidden_window=16,
    input_norms="each",
    feeds_normed_state=True,
    has_embedding_residual=True,
    has_fed_back_map=True,
    candidate_rank=8,
    num_candidates=12,
    calibration=Calibration((1.25, 1.5), 1.5),
    first_choice_floor=0.25,
    vocab_sha256="ab" * 32,
)


def random_module(seed: int = 0, **changes: Any) -> HiddenStateModule:
    """``TINY`` with ``changes``; every tensor is random, norms too."""
    module = HiddenStateModule(replace(TINY, **changes))
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, tensor in module.named_parameters():
            values = torch.randn(tensor.shape, generator=generator)
            tensor.copy_(1 + 0.2 * values if "norm" in name else values * tensor.shape[-1] ** -0.5)
    return module.eval()

"""Hidden states as transformers has them, and a comparison to the rounding of bfloat16."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from specgrove.loop.verifier_knowledge import HiddenStates
from specgrove.runtime.hidden_values import tensor_of


def expected_states(folder: Path, token_ids: Sequence[int], layers: Sequence[int]) -> torch.Tensor:
    """Of a Llama: float32 ``[num_tokens, len(layers), hidden_size]``; those after the last layer are before the last norm."""
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    last: list[torch.Tensor] = []
    model.model.norm.register_forward_pre_hook(lambda _, inputs: last.append(inputs[0]))
    with torch.no_grad():
        states = model(torch.tensor([list(token_ids)]), output_hidden_states=True).hidden_states
    before_layers = [*states[:-1], last[0]]
    return torch.stack([before_layers[layer][0] for layer in layers], dim=1)


def check(folder: Path, token_ids: Sequence[int], states: HiddenStates) -> None:
    """That these are the rows of the text that they say."""
    wanted = expected_states(folder, token_ids, states.layers)[states.first_position : states.end_position]
    found = tensor_of(states).view(states.num_tokens, len(states.layers), -1)
    # bfloat16 has 8 bits; what is rounded differs by the noise of float32.
    allowed = wanted.abs() * 2**-8 + 1e-4 * wanted.abs().max()
    assert found.shape == wanted.shape
    assert ((found - wanted).abs() <= allowed).all()

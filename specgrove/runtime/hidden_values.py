"""Hidden states of a pass as the bytes that travel, and back: the one place where they are rounded to bfloat16.

Used by the LLM service, which sends them, by the SSM service, and by training, so that an SSM is trained on what it is served.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from specgrove.loop.verifier_knowledge import HiddenStates


def rounded(states: torch.Tensor) -> torch.Tensor:
    """bfloat16, to the nearest, ties to even."""
    return states.to(torch.bfloat16)


def values_of(states: Sequence[torch.Tensor], rows: Sequence[int]) -> bytes:
    """``HiddenStates.values`` of some rows of a pass; ``states`` is ``[num_rows, hidden_size]`` for each layer, on any device."""
    index = torch.tensor(rows, device=states[0].device)
    picked = torch.stack([of_layer.index_select(0, index) for of_layer in states], dim=1)
    return rounded(picked).cpu().view(torch.uint8).numpy().tobytes()


def tensor_of(states: HiddenStates) -> torch.Tensor:
    """float32 ``[num_tokens, num_layers * hidden_size]``, layers rising."""
    values = torch.frombuffer(bytearray(states.values), dtype=torch.bfloat16)
    return values.view(states.num_tokens, -1).float()

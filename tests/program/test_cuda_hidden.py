"""Hidden-state SSMs on the kernels for GPUs, by their emulator on the CPU: near the reference, and of asked rows only."""

from __future__ import annotations

import pytest
import torch

from specgrove.program.device_weights import DeviceWeights
from tests.program.hidden_states import FLAVOURS, NUM_CANDIDATES, NUM_TAPS, TARGET, caches, chain, tiny
from tests.program.programs import in_float64

TOKENS = [5, 9, 17, 40]


@pytest.mark.parametrize("flavour", FLAVOURS)
def test_extensions_and_levels(flavour: str) -> None:
    own = tiny(flavour, "bfloat16", hidden=128, head_dim=64)
    model, reference = (
        own.model(torch.bfloat16, store)
        for store in (DeviceWeights(torch.device("cpu"), has_kernels=True), in_float64())
    )
    fed = torch.randn(len(TOKENS), NUM_TAPS * TARGET, generator=torch.Generator().manual_seed(1))
    kept, wanted_caches = caches(model, torch.bfloat16), caches(reference, torch.float64)
    rows = chain(TOKENS, 0, [1, 3])
    found, wanted = model.extend(rows, kept, fed), reference.extend(rows, wanted_caches, fed.double())
    assert found.hidden[0].shape == (2, 128)
    assert (found.hidden[0] - wanted.hidden[0]).abs().max() <= 0.2
    assert found.candidates is not None
    assert found.candidates.token_ids.shape == (2, NUM_CANDIDATES)
    alone = caches(model, torch.bfloat16)
    model.extend(chain(TOKENS[:3], 0, []), alone, fed[:3])
    last = model.extend(chain(TOKENS[3:], 3, [0]), alone, fed[3:])
    assert last.candidates is not None
    assert torch.equal(last.hidden[0][0], found.hidden[0][1])
    assert torch.equal(last.candidates.logits[0], found.candidates.logits[1])
    states = found.hidden[0][1:]
    level = model.level(chain([7], 4, [0]), kept, states)
    level_wanted = reference.level(chain([7], 4, [0]), wanted_caches, states.double())
    assert (level.hidden[0] - level_wanted.hidden[0]).abs().max() <= 0.2

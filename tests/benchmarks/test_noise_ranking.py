"""The benchmark of the verifier's noise: what it keeps is read as it was."""

from __future__ import annotations

from pathlib import Path

import torch

from benchmarks.noise_ranking import Places, read_places, write_places
from specgrove.kernels.sampling import ChoiceParams


def test_places_that_are_kept_are_read_as_they_were(tmp_path: Path) -> None:
    places = [
        Places(torch.tensor([[1, 2]]), torch.tensor([[-0.5, -1.0]]), torch.tensor([2]), [seed], [9], ChoiceParams(t))
        for seed, t in ((3, 0.0), (2**40, 0.8))
    ]
    write_places(places, tmp_path / "kept")
    for found, made in zip(read_places(tmp_path / "kept"), places, strict=True):
        assert torch.equal(found.token_ids, made.token_ids)
        assert torch.equal(found.log_probs, made.log_probs)
        assert torch.equal(found.chosen, made.chosen)
        assert (found.seeds, found.positions, found.params) == (made.seeds, made.positions, made.params)

"""Programs that hand hidden states out beside one that does not: other passes keep their bits, and transformers has the same there."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from specgrove.models.decoder.family import read_spec
from specgrove.models.decoder.sharding import Shard
from specgrove.program.decoder import Decoder
from specgrove.program.loading import load_decoder
from specgrove.program.output_ops import KeepHidden
from specgrove.program.stores import MappedWeights, MemoryWeights, WeightStore
from specgrove.program.torch_backend import TorchWeights
from specgrove.runtime.model_runner import ModelRunner
from tests.models.families import VARIANTS, save_tiny
from tests.program.programs import some_passes


def runner_of(folder: Path, store: WeightStore) -> ModelRunner:
    return ModelRunner(load_decoder(folder, torch.float32, store=store), num_slots=64)


def num_kept(decoder: Decoder) -> int:
    return sum(isinstance(op, KeepHidden) for op in decoder.program.ops)


@pytest.mark.parametrize("variant", VARIANTS)
def test_any_layer_of_any_pass_and_nothing_else_changes(variant: str, tmp_path: Path) -> None:
    model = save_tiny(variant, tmp_path)
    num_layers = read_spec(tmp_path).num_layers
    layers = tuple(range(num_layers + 1))
    stores = (MemoryWeights(), TorchWeights(torch.device("cpu")), MappedWeights(tmp_path / "cache", 0))
    second = slice(5, 9)  # of the second pass: the whole second prompt
    for store in stores:
        plain = runner_of(tmp_path, store)
        telling = ModelRunner(plain.decoder, plain.num_slots)
        assert num_kept(plain.decoder) == 0
        for place, rows in enumerate(some_passes()):
            without, with_last, early = (
                plain.run(rows),
                telling.run(replace(rows, hidden_layers=layers)),
                plain.run(replace(rows, hidden_layers=(1,))),
            )
            assert torch.equal(without.logits, with_last.logits)
            assert torch.equal(without.logits, early.logits)
            assert without.hidden == ()
            assert torch.equal(early.hidden[0], with_last.hidden[1])
            assert [states.shape[0] for states in with_last.hidden] == [rows.num_rows] * len(layers)
            if place == 1:
                with torch.inference_mode():
                    tokens = torch.tensor([rows.token_ids[second].tolist()])
                    expected = model(tokens, output_hidden_states=True).hidden_states
                for hidden, states in zip(with_last.hidden[:num_layers], expected[:num_layers], strict=True):
                    allowed = 1e-4 * max(1.0, float(states.abs().max()))
                    assert (hidden[second] - states[0]).abs().max() <= allowed


def test_what_comes_out_of_the_last_layer_is_not_normed_yet(tmp_path: Path) -> None:
    model = save_tiny("llama", tmp_path)
    num_layers = read_spec(tmp_path).num_layers
    rows = replace(some_passes()[1], hidden_layers=(num_layers,))
    (states,) = runner_of(tmp_path, MemoryWeights()).run(rows).hidden
    with torch.inference_mode():
        tokens = torch.tensor([rows.token_ids[5:9].tolist()])
        normed = model(tokens, output_hidden_states=True).hidden_states[-1][0]
        assert (model.model.norm(states[5:9]) - normed).abs().max() <= 1e-4
    assert (states[5:9] - normed).abs().max() > 1e-2


def test_a_stage_has_its_own_layers_and_still_gives_the_next_one_what_it_takes(tmp_path: Path) -> None:
    save_tiny("llama", tmp_path)
    rows = some_passes()[0]
    whole, stage = (
        ModelRunner(load_decoder(tmp_path, torch.float32, shard=shard), 64)
        for shard in (None, Shard(0, 1, 0, 1, is_last_stage=False))
    )
    assert list(stage.decoder.hidden_layers) == [0, 1]
    expected = whole.run(replace(rows, hidden_layers=(0, 1))).hidden
    *told, handed_on = stage.run(replace(rows, hidden_layers=(0, 1))).hidden
    assert all(map(torch.equal, told, expected))
    assert torch.equal(handed_on, expected[1])
    with pytest.raises(ValueError, match=r"hidden states are asked for at \[2\]; there are those at 0 to 1"):
        stage.run(replace(rows, hidden_layers=(2,)))


def test_the_program_that_was_asked_for_last_is_kept(tmp_path: Path) -> None:
    save_tiny("llama", tmp_path)
    decoder = load_decoder(tmp_path, torch.float32)
    first = decoder.keeping((0, 1))
    assert decoder.keeping((0, 1)) is first
    assert decoder.keeping((1,)) is not first

"""A model on the CPU in one native call, by segments, in stages, from a file: the same bits for every family."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from specgrove.models.decoder.family import read_spec
from specgrove.models.decoder.sharding import Shard
from specgrove.models.weights.quantization import quantize_folder
from specgrove.program.stores import MappedWeights, MemoryWeights
from tests.models.families import VARIANTS, save_tiny
from tests.pairs import in_turn
from tests.program.programs import Loaded, some_passes


class InSegments(MemoryWeights):
    """In memory, but a program has to tell it of every unit: a segment each."""

    is_streamed = True


def _assert_equal_bits(folder: Path, dtype: torch.dtype, cache: Path) -> None:
    stores = (MemoryWeights(), InSegments(), MappedWeights(cache, 0))
    in_one_call, *others = (Loaded.of(folder, dtype, store) for store in stores)
    assert len(list(in_one_call.program.segments())) == 1
    for rows in some_passes():
        expected = in_one_call.run(rows).logits
        for other in others:
            assert torch.equal(other.run(rows).logits, expected)
    for other in others:
        assert len(list(other.program.segments())) > 2
        for ours, theirs in zip(
            in_one_call.caches.keys + in_one_call.caches.values, other.caches.keys + other.caches.values, strict=True
        ):
            assert torch.equal(ours, theirs)
    assert all(cache.any() for cache in in_one_call.caches.keys)


@pytest.mark.parametrize(("variant", "dtype"), in_turn(pytest.mark.slow, VARIANTS, ("float32", "bfloat16", "float16")))
def test_segments_have_the_bits_of_one_call(variant: str, dtype: str, tmp_path: Path) -> None:
    """Every variant in one of the types; the slow tests have all of them."""
    save_tiny(variant, tmp_path / "model")
    _assert_equal_bits(tmp_path / "model", getattr(torch, dtype), tmp_path / "cache")


@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize("variant", ["llama-tied-biases", "gpt-bigcode"])
def test_quantised_weights_too(variant: str, bits: int, tmp_path: Path) -> None:
    save_tiny(variant, tmp_path / "source")
    quantize_folder(tmp_path / "source", tmp_path / "quantised", bits)
    _assert_equal_bits(tmp_path / "quantised", torch.bfloat16, tmp_path / "cache")


@pytest.mark.parametrize("variant", ["llama", "opt-350m", "falcon-7b", "gemma3"])
def test_stages_of_a_pipeline_have_the_bits_of_the_whole(variant: str, tmp_path: Path) -> None:
    """Also what a stage gives to the next, which is what the whole keeps there."""
    save_tiny(variant, tmp_path)
    num_layers = read_spec(tmp_path).num_layers
    whole = Loaded.of(tmp_path, torch.bfloat16, MemoryWeights(), keep_hidden=[1])
    first, second = (
        Loaded.of(tmp_path, torch.bfloat16, MemoryWeights(), shard)
        for shard in (Shard(0, 1, 0, 1, is_last_stage=False), Shard(0, 1, 1, num_layers, is_first_stage=False))
    )
    for rows in some_passes():
        expected = whole.run(rows)
        (hidden,) = first.run(rows).hidden
        assert torch.equal(hidden, expected.hidden[0])
        assert torch.equal(second.run(rows, hidden).logits, expected.logits)


@pytest.mark.parametrize("variant", VARIANTS)
def test_hidden_states_are_transformers(variant: str, tmp_path: Path) -> None:
    """Before every layer, of all rows."""
    model = save_tiny(variant, tmp_path)
    num_layers = read_spec(tmp_path).num_layers
    loaded = Loaded.of(tmp_path, torch.float32, MemoryWeights(), keep_hidden=range(num_layers))
    rows = some_passes()[1]
    second = slice(5, 9)  # the whole second prompt
    with torch.inference_mode():
        expected = model(torch.tensor([rows.token_ids[second].tolist()]), output_hidden_states=True).hidden_states
    for hidden, states in zip(loaded.run(rows).hidden, expected[:num_layers], strict=True):
        assert (hidden[second] - states[0]).abs().max() <= 1e-4 * max(1.0, float(states.abs().max()))

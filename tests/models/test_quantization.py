"""Quantised model folders: what is written is what is computed with, whole and in shards."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from specgrove.kernels.quantized_linear import QuantizedWeight, quantize
from specgrove.models.checkpoint import ALL, Checkpoint
from specgrove.models.errors import UnsupportedModelError
from specgrove.models.hub import check_model_folder
from specgrove.models.loading import load_decoder, quantization_of, read_spec
from specgrove.models.memory_plan import MemoryRequest, plan_memory
from specgrove.models.parallel_layout import ParallelLayout
from specgrove.models.quantization import GROUP_SIZE, cached_quantized_folder, quantize_folder
from specgrove.models.weight_store import Linear, MemoryWeights
from specgrove.models.weights import Weight
from specgrove.runtime.model_runner import ModelRunner
from tests.conftest import save_tiny_llama
from tests.models.families import VARIANTS, VOCAB_SIZE, save_tiny
from tests.models.test_decoder import PROMPTS, chunked_logits


class QuantizingWeights(MemoryWeights):
    """Quantises what comes, in memory."""

    def __init__(self, bits: int) -> None:
        self._bits = bits

    def linear(self, weight: Weight, bias: torch.Tensor | None, dtype: torch.dtype) -> Linear:
        assert isinstance(weight, torch.Tensor)
        bits = 8 if weight.shape[0] == VOCAB_SIZE or weight.shape[1] % GROUP_SIZE else self._bits
        return super().linear(quantize(weight, bits, GROUP_SIZE if bits == 4 else None), bias, dtype)


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("quantization", ["int8", "int4"])
def test_a_quantised_folder_gives_the_logits_of_its_quantised_weights(
    variant: str, quantization: str, tmp_path: Path
) -> None:
    save_tiny(variant, tmp_path / "source")
    quantize_folder(tmp_path / "source", tmp_path / "target", quantization)
    check_model_folder(tmp_path / "target", needs_tokenizer=False)
    assert quantization_of(tmp_path / "target") == quantization
    found = load_decoder(tmp_path / "target", torch.float32)
    bits = {"int8": 8, "int4": 4}[quantization]
    expected = load_decoder(tmp_path / "source", torch.float32, store=QuantizingWeights(bits))
    logits = [chunked_logits(ModelRunner(decoder, 64), PROMPTS[0], 5) for decoder in (found, expected)]
    assert torch.equal(*logits)


def test_slices_of_a_quantised_weight_are_those_of_the_whole(tmp_path: Path) -> None:
    save_tiny_llama(tmp_path / "source", seed=0, hidden_size=96, intermediate_size=256)
    for quantization in ("int8", "int4"):
        quantize_folder(tmp_path / "source", tmp_path / quantization, quantization)
        with Checkpoint(tmp_path / quantization) as checkpoint:
            name = "model.layers.1.mlp.down_proj.weight"
            whole = checkpoint.weight(name, ALL, ALL)
            part = checkpoint.weight(name, slice(8, 40), slice(64, 192))
            assert isinstance(whole, QuantizedWeight)
            assert isinstance(part, QuantizedWeight)
            assert torch.equal(part.dequantized(), whole.dequantized()[8:40, 64:192])
            if quantization == "int4":
                with pytest.raises(UnsupportedModelError, match="no whole groups of 32"):
                    checkpoint.weight(name, ALL, slice(16, 192))


def test_nothing_half_made_is_left_and_nothing_is_overwritten(tmp_path: Path) -> None:
    save_tiny("llama", tmp_path / "source")
    quantize_folder(tmp_path / "source", tmp_path / "target", "int8")
    with pytest.raises(ValueError, match="exists"):
        quantize_folder(tmp_path / "source", tmp_path / "target", "int8")
    with pytest.raises(ValueError, match=r"quantised already \(int8\)"):
        quantize_folder(tmp_path / "target", tmp_path / "again", "int4")

    def stop(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        quantize_folder(tmp_path / "source", tmp_path / "broken", "int8", stop)
    assert not (tmp_path / "broken").exists()
    quantize_folder(tmp_path / "source", tmp_path / "broken", "int8")


def test_the_cache_is_used_until_the_model_changes(tmp_path: Path) -> None:
    save_tiny("llama", tmp_path / "model")
    said: list[str] = []
    first = cached_quantized_folder(tmp_path / "model", "int8", tmp_path / "cache", said.append)
    assert len(said) == 2
    assert cached_quantized_folder(tmp_path / "model", "int8", tmp_path / "cache", said.append) == first
    assert cached_quantized_folder(first, "int8", tmp_path / "cache", said.append) == first
    assert len(said) == 2
    other = cached_quantized_folder(tmp_path / "model", "int4", tmp_path / "cache", said.append)
    save_tiny("llama-tied-biases", tmp_path / "model")
    changed = cached_quantized_folder(tmp_path / "model", "int8", tmp_path / "cache", said.append)
    assert len({first, other, changed}) == 3


def test_other_methods_are_refused_by_name(tmp_path: Path) -> None:
    save_tiny("llama", tmp_path)
    path = tmp_path / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"quantization_config": {"quant_method": "hqq"}}))
    with pytest.raises(UnsupportedModelError, match="quantised by 'hqq' are not supported"):
        load_decoder(tmp_path, torch.float32)


@pytest.mark.parametrize("quantization", ["int8", "int4"])
def test_the_memory_plan_knows_quantised_weights(quantization: str, tmp_path: Path) -> None:
    save_tiny_llama(tmp_path / "source", seed=0, hidden_size=192, intermediate_size=256, vocab_size=1024)
    quantize_folder(tmp_path / "source", tmp_path / "target", quantization)
    decoder = load_decoder(tmp_path / "target", torch.bfloat16)
    assert decoder.embedding is not None
    assert decoder.head is not None
    linears = [linear for layer in decoder.layers for linear in layer.linears]
    taken = decoder.embedding.table.nbytes + decoder.head.vocab.nbytes + sum(linear.nbytes for linear in linears)
    request = MemoryRequest("bfloat16", quantization, ParallelLayout(), num_slots=1, max_num_rows=1)
    assert plan_memory(read_spec(tmp_path / "target"), request)[0].weight_bytes == pytest.approx(taken, rel=0.1)

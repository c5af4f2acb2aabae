"""Every family and variant against transformers: whole prompts, chunks, single tokens and trees give the same logits."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from specgrove.models.decoder.family import read_spec
from specgrove.models.decoder.sharding import Shard
from specgrove.models.errors import UnsupportedModelError
from specgrove.program.loading import load_decoder
from specgrove.program.tensor_group import OneRank
from specgrove.runtime.model_runner import ModelRunner
from specgrove.runtime.pass_builder import PassBuilder, TreeRows
from tests.models.families import VARIANTS, VOCAB_SIZE, save_tiny
from tests.models.test_decoder import PROMPTS, chunked_logits


class FakeGroup(OneRank):
    """Of a shard, for what needs no others."""

    def __init__(self, shard: Shard | None) -> None:
        self.rank, self.size = (0, 1) if shard is None else (shard.tensor_rank, shard.tensor_size)


_TREE_IDS, _PARENTS = [3, 10, 11, 12, 13, 14], [-1, 0, 0, 1, 3, 2]


def _path(node: int) -> list[int]:
    path = []
    while node >= 0:
        path.insert(0, _TREE_IDS[node])
        node = _PARENTS[node]
    return path


@pytest.mark.parametrize("variant", VARIANTS)
def test_logits_equal_transformers(variant: str, tmp_path: Path) -> None:
    model = save_tiny(variant, tmp_path)
    decoder = load_decoder(tmp_path, torch.float32)
    for prompt in PROMPTS:
        with torch.inference_mode():
            expected = model(torch.tensor([prompt])).logits[0]
        assert expected.abs().max() > 0.1  # far from flat
        for chunk_len in (1, 3, len(prompt)):
            logits = chunked_logits(ModelRunner(decoder, num_slots=64), prompt, chunk_len)
            assert (logits - expected).abs().max() <= 1e-4


@pytest.mark.parametrize("variant", VARIANTS)
def test_trees_equal_their_sequences(variant: str, tmp_path: Path) -> None:
    model = save_tiny(variant, tmp_path)
    runner = ModelRunner(load_decoder(tmp_path, torch.float32), num_slots=64)
    context = PROMPTS[0][:7]
    chunked_logits(runner, context, len(context))
    builder = PassBuilder()
    builder.add(list(range(3, 10)), (), TreeRows(_TREE_IDS, _PARENTS, [30, 22, 25, 21, 40, 20]))
    logits = runner.forward(builder.build())
    for node in range(len(_TREE_IDS)):
        sequence = context + _path(node)
        with torch.inference_mode():
            expected = model(torch.tensor([sequence])).logits[0, -1]
        assert (logits[node] - expected).abs().max() <= 1e-4
        one_by_one = chunked_logits(ModelRunner(runner.decoder, num_slots=64), sequence, 1)[-1]
        assert torch.equal(logits[node], one_by_one)  # and bit for bit what incremental decoding gives


def test_a_configuration_of_another_model_is_refused(tmp_path: Path) -> None:
    """Whatever rank reads: a part of a tensor that is too large would pass for a whole one."""
    wrong = {
        "llama": {"num_key_value_heads": 1, "num_attention_heads": 3, "intermediate_size": 64, "vocab_size": 90, "hidden_size": 24},
        "opt": {"ffn_dim": 64, "max_position_embeddings": 48},
        "qwen3": {"head_dim": 4},
    }  # fmt: skip
    for variant, values in wrong.items():
        save_tiny(variant, tmp_path / variant)
        path = tmp_path / variant / "config.json"
        config = json.loads(path.read_text())
        for key, value in values.items():
            path.write_text(json.dumps(config | {key: value}))
            for shard in (None, Shard(0, 2, 0, 3), Shard(1, 3, 0, 3)):
                with pytest.raises(
                    UnsupportedModelError, match=r"has the shape \[.*\], by config.json it should have \["
                ):
                    load_decoder(tmp_path / variant, torch.float32, shard=shard, group=FakeGroup(shard))


def test_falcon_loads_under_its_old_name(tmp_path: Path) -> None:
    model = save_tiny("falcon-7b", tmp_path)
    path = tmp_path / "config.json"
    config = json.loads(path.read_text())
    config |= {"architectures": ["RWForCausalLM"], "n_layer": config.pop("num_hidden_layers")}
    config["n_head"] = config.pop("num_attention_heads")
    path.write_text(json.dumps(config))
    with torch.inference_mode():
        expected = model(torch.tensor([PROMPTS[0]])).logits[0]
    logits = chunked_logits(ModelRunner(load_decoder(tmp_path, torch.float32), num_slots=64), PROMPTS[0], 4)
    assert (logits - expected).abs().max() <= 1e-4


def test_sharded_checkpoints_load(tmp_path: Path) -> None:
    model = save_tiny("llama", tmp_path / "whole")
    model.save_pretrained(tmp_path / "sharded", max_shard_size="30KB")
    assert len(list((tmp_path / "sharded").glob("*.safetensors"))) > 2
    whole, sharded = (load_decoder(tmp_path / name, torch.float32) for name in ("whole", "sharded"))
    logits = [chunked_logits(ModelRunner(decoder, 64), PROMPTS[0], 11) for decoder in (whole, sharded)]
    assert torch.equal(*logits)


def test_the_number_of_parameters_is_transformers_without_norms_biases_and_positions(tmp_path: Path) -> None:
    for variant in VARIANTS:
        model = save_tiny(variant, tmp_path / variant)
        num_expected = sum(
            parameter.numel()
            for name, parameter in model.named_parameters()
            if parameter.ndim == 2 and "wpe" not in name and "embed_positions" not in name
        )
        spec = read_spec(tmp_path / variant)
        assert spec.vocab_size == VOCAB_SIZE
        assert spec.num_parameters == num_expected, variant


@pytest.mark.parametrize(
    ("variant", "keys"),
    [
        ("qwen2-window", ("use_sliding_window", "layer_types")),
        ("qwen2-window", ("max_window_layers", "layer_types")),
        ("qwen3", ("sliding_window", "use_sliding_window")),
        ("mistral-window", ("sliding_window", "layer_types")),
        ("llama", ("max_position_embeddings", "rms_norm_eps")),
        ("gemma2", ("layer_types", "attn_logit_softcapping", "final_logit_softcapping")),
        ("gemma3", ("layer_types",)),
        ("granite", ("embedding_multiplier", "attention_multiplier", "logits_scaling")),
        ("falcon-7b", ("multi_query", "parallel_attn", "alibi")),
    ],
)
def test_keys_that_are_left_out_mean_what_they_mean_to_transformers(
    variant: str, keys: tuple[str, ...], tmp_path: Path
) -> None:
    from transformers import AutoModelForCausalLM

    save_tiny(variant, tmp_path)
    path = tmp_path / "config.json"
    config = {key: value for key, value in json.loads(path.read_text()).items() if key not in keys}
    path.write_text(json.dumps(config))
    model = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32, attn_implementation="eager")
    with torch.inference_mode():
        expected = model(torch.tensor([PROMPTS[0]])).logits[0]
    logits = chunked_logits(ModelRunner(load_decoder(tmp_path, torch.float32), num_slots=64), PROMPTS[0], 4)
    assert (logits - expected).abs().max() <= 1e-4

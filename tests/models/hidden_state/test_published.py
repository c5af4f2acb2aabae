"""Published EAGLE-3 checkpoints: each flavour computes what its architecture says, and what isn't known is refused by its name."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from specgrove.models.errors import UnsupportedModelError
from specgrove.models.folders.conversion import convert_model
from specgrove.models.hidden_state.attention import CachedAttention, window_mask
from specgrove.models.hidden_state.loading import HiddenSsm, read_hidden_ssm
from specgrove.models.hidden_state.recognition import hidden_ssm_spec_of, reads_hidden_states
from tests.conftest import save_tiny_llama
from tests.models.hidden_state.published import FLAVOURS, HIDDEN, LLM_LAYERS, VOCAB, reference_logits, save

PICKLED = ("EAGLE", "NeMo")


@pytest.fixture(scope="module")
def llm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_llama(tmp_path_factory.mktemp("llm"), seed=4, num_hidden_layers=LLM_LAYERS)


def _saved(folder: Path, flavour: str, **changes: Any) -> Path:
    """Ready to load."""
    source = save(folder / "source", flavour, **changes)
    if flavour not in PICKLED:
        return source
    convert_model(source, folder / "converted", None)
    return folder / "converted"


def _logits(ssm: HiddenSsm, taps: torch.Tensor, token_ids: list[int], drafted: list[int]) -> list[torch.Tensor]:
    """As ``reference_logits``, by our own module."""
    module, ends, attention = ssm.module(), ssm.ends, CachedAttention()
    embedding = ends.embedding.float() * ends.embedding_scale
    num_pairs = len(token_ids)
    attention.mask = window_mask(num_pairs, num_pairs)
    states = module(module.of_hidden_states(taps, embedding[token_ids]), torch.arange(num_pairs), attention)[-1:]
    found = [states]
    for step, token_id in enumerate(drafted):
        attention.mask = torch.ones(1, num_pairs + step + 1, dtype=torch.bool)
        given = module.of_own_states(states, embedding[[token_id]])
        states = module(given, torch.tensor([num_pairs + step]), attention)
        found.append(states)
    ids = torch.arange(VOCAB) if ends.token_ids is None else ends.token_ids
    blank = torch.full((VOCAB,), -torch.inf)
    return [blank.index_put((ids,), (module.outputs(state) @ ends.head.float().T)[0]) for state in found]


@pytest.mark.parametrize("flavour", FLAVOURS)
@torch.no_grad()
def test_each_flavour_computes_what_its_architecture_says(flavour: str, llm: Path, tmp_path: Path) -> None:
    folder = _saved(tmp_path, flavour)
    assert reads_hidden_states(folder)
    ssm = read_hidden_ssm(folder, llm)
    assert ssm.spec.hidden_layers == ((2, 4, 5) if flavour == "EAGLE" else (1, 3, 5))
    taps = torch.randn(7, 3 * HIDDEN)
    weights = load_file(llm / "model.safetensors")
    told = reference_logits(
        flavour,
        taps,
        [5, 9, 1, 0, 33, 96, 4],
        [8, 70, 2],
        weights["model.embed_tokens.weight"],
        weights["lm_head.weight"],
    )
    for ours, theirs in zip(_logits(ssm, taps, [5, 9, 1, 0, 33, 96, 4], [8, 70, 2]), told, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


def test_eagles_own_checkpoints_may_say_the_llms_number_of_layers(llm: Path, tmp_path: Path) -> None:
    """As EAGLE3-Vicuna1.3-13B does; its makers' code makes one."""
    usual = _saved(tmp_path / "usual", "EAGLE")
    assert (
        read_hidden_ssm(_saved(tmp_path, "EAGLE", num_hidden_layers=40), llm).spec == read_hidden_ssm(usual, llm).spec
    )


@pytest.mark.parametrize(
    ("flavour", "changes", "told"),
    [
        ("SpecForge", {"sandwich_norm": True}, "sandwich_norm is not known in a checkpoint of EAGLE-3"),
        ("EAGLE", {"norm_output": True}, "norm_output is not known"),
        ("speculators", {"transformer_layer_config": {"residual_multiplier": 2}}, "residual_multiplier is not known"),
        ("speculators", {"speculators_model_type": "eagle"}, "speculators_model_type"),
        ("SpecForge", {"norm_output": False}, "norm_output is false"),
        ("SpecForge", {"num_hidden_layers": 2}, "num_hidden_layers is 2, it should be 1"),
        ("SpecForge", {"hidden_act": "gelu"}, "hidden_act"),
        ("SpecForge", {"vocab_size": 98}, "vocab_size is 98, the LLM's is 97"),
        ("SpecForge", {"target_hidden_size": 64}, "it reads hidden states of 64 numbers, the LLM's have 48"),
        ("SpecForge", {"eagle_config": {"eagle_aux_hidden_state_layer_ids": [0, 2, 8]}}, "layers of an LLM that has 8"),
        ("SpecForge", {"eagle_config": {"layers": [0]}}, "layers is not known"),
        ("speculators", {"fc_norm": True, "norm_before_fc": True}, "both true"),
        ("SpecForge", {"num_key_value_heads": 3}, "4 query heads are no multiple of 3"),
        ("SpecForge", {"head_dim": 11}, "head_dim is 11, it should be even"),
    ],
)
def test_what_is_wrong_in_a_configuration_is_named(
    flavour: str, changes: dict[str, Any], told: str, llm: Path, tmp_path: Path
) -> None:
    folder = save(tmp_path, flavour, **changes)
    with pytest.raises(ValueError, match=told):
        hidden_ssm_spec_of(folder, llm)


def _drop(name: str) -> Callable[[dict[str, torch.Tensor]], Any]:
    return lambda tensors: tensors.pop(name)


@pytest.mark.parametrize(
    ("edit", "told"),
    [
        (_drop("d2t"), r"lacks the tensor d2t.*speculative_token_map\.pt"),
        (_drop("lm_head.weight"), "lacks the tensor lm_head.weight"),
        (_drop("midlayer.hidden_norm.weight"), "lacks the tensors layer.hidden_norm.weight"),
        (
            lambda tensors: tensors.update({"midlayer.gate.weight": torch.zeros(1)}),
            "has the tensor midlayer.gate.weight",
        ),
        (
            lambda tensors: tensors.update({"layers.1.mlp.up_proj.weight": torch.zeros(1)}),
            r"has the tensor layers\.1\.",
        ),
        (lambda tensors: tensors["d2t"].zero_(), "d2t and t2d name different"),
        (lambda tensors: tensors["d2t"].fill_(90), "doesn't name 40 of 97"),
        (lambda tensors: tensors.update({"fc.weight": torch.zeros(48, 48)}), r"fc.weight has the shape \[48, 48\]"),
        (lambda tensors: tensors.update(d2t=tensors["d2t"].bfloat16()), "d2t holds torch.bfloat16"),
        (
            lambda tensors: tensors.update({"model.norm.weight": torch.zeros(48)}),
            "both model.norm.weight and norm.weight",
        ),
        (lambda tensors: tensors["fc.weight"][3].fill_(torch.nan), "fc.weight holds NaN or infinity"),
        (lambda tensors: tensors["lm_head.weight"].fill_(torch.inf), "lm_head.weight holds NaN or infinity"),
        (
            lambda tensors: tensors.update({"fc.weight": tensors["fc.weight"].to(torch.int8)}),
            "fc.weight holds torch.int8",
        ),
    ],
)
def test_what_is_wrong_with_the_tensors_is_named(
    edit: Callable[[dict[str, torch.Tensor]], Any], told: str, llm: Path, tmp_path: Path
) -> None:
    folder = save(tmp_path, "SpecForge")
    tensors = load_file(folder / "model.safetensors")
    edit(tensors)
    save_file(tensors, folder / "model.safetensors")
    with pytest.raises(UnsupportedModelError, match=told):
        read_hidden_ssm(folder, llm)


def test_newer_kinds_are_not_taken_for_this_one(tmp_path: Path) -> None:
    folder = save(tmp_path, "SpecForge", architectures=["LlamaForCausalLMEagle4"])
    assert not reads_hidden_states(folder)
    plain = json.loads((folder / "config.json").read_text()) | {"architectures": ["LlamaForCausalLM"]}
    del plain["draft_vocab_size"]
    (folder / "config.json").write_text(json.dumps(plain))
    assert not reads_hidden_states(folder)


def test_the_llm_must_be_named(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedModelError, match="say which LLM it is with --llm-model"):
        hidden_ssm_spec_of(save(tmp_path, "SpecForge"), None)


def test_a_name_in_two_files_is_read_from_the_one_that_the_index_names(llm: Path, tmp_path: Path) -> None:
    folder = save(tmp_path, "SpecForge")
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").rename(folder / "a.safetensors")
    save_file({"norm.weight": torch.zeros(48)}, folder / "b.safetensors")
    with pytest.raises(ValueError, match=r"both a\.safetensors and b\.safetensors hold norm\.weight"):
        read_hidden_ssm(folder, llm)
    index = {"weight_map": dict.fromkeys(tensors, "a.safetensors")}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    assert torch.equal(read_hidden_ssm(folder, llm).tensors["norm.weight"], tensors["norm.weight"])

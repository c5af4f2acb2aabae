"""Rotary positions from all places where a configuration may ask for them, against transformers with the same said in one place."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from specgrove.files.json_files import JsonFileError, JsonObject
from specgrove.models.decoder.family import read_spec
from specgrove.models.decoder.rope_config import longest_context, rotary_of
from specgrove.models.errors import UnsupportedModelError
from specgrove.program.loading import load_decoder
from specgrove.runtime.model_runner import ModelRunner
from tests.models.families import save_tiny
from tests.models.quantized_folders import edit_config
from tests.models.test_decoder import PROMPTS, chunked_logits

YARN = {"factor": 4.0, "original_max_position_embeddings": 64}
PLAIN = {"rope_type": "default", "rope_theta": 5000.0}
LONG_PROMPT = [(7 * i) % 97 for i in range(150)]


def transformers_logits(folder: Path, rope: dict[str, Any], token_ids: list[int], **config: Any) -> torch.Tensor:
    """With all of it in rope_parameters, as transformers 5 writes it."""
    import transformers

    loaded = transformers.AutoConfig.from_pretrained(folder)
    loaded.rope_parameters = rope
    for key, value in config.items():
        setattr(loaded, key, value)
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, config=loaded, dtype=torch.float32)
    with torch.inference_mode():
        return model(torch.tensor([token_ids])).logits[0]


def logits_of(folder: Path, token_ids: list[int]) -> torch.Tensor:
    return chunked_logits(ModelRunner(load_decoder(folder, torch.float32), 256), token_ids, 50)


PLACES: list[tuple[dict[str, Any], dict[str, Any]]] = [
    ({"rope_parameters": PLAIN, "rope_scaling": {"type": "yarn", **YARN}}, {"rope_type": "yarn", **YARN}),
    ({"rope_parameters": PLAIN, "rope_scaling": {"rope_type": "yarn", **YARN}}, {"rope_type": "yarn", **YARN}),
    ({"rope_parameters": PLAIN, "rope_scaling": {"type": "linear", "factor": 2.0}}, {"rope_type": "linear", "factor": 2.0}),
    ({"rope_parameters": {**PLAIN, "rope_type": "linear", "factor": 2}, "rope_scaling": {"factor": 2.0, "rope_type": "default"}},
     {"rope_type": "linear", "factor": 2.0}),
    ({"rope_theta": 5000.0, "rope_parameters": None, "rope_scaling": {"type": "yarn", **YARN}}, {"rope_type": "yarn", **YARN}),
    ({"rope_theta": 5000, "rope_parameters": {"rope_type": "default"}, "rope_scaling": None}, {"rope_type": "default"}),
    ({"rope_parameters": {**PLAIN, "rope_type": "yarn", **YARN}, "rope_scaling": {"type": "yarn", **YARN}},
     {"rope_type": "yarn", **YARN}),
]  # fmt: skip


@pytest.mark.parametrize(("changes", "meant"), PLACES)
def test_what_is_said_in_several_places_counts(changes: dict[str, Any], meant: dict[str, Any], tmp_path: Path) -> None:
    save_tiny("qwen2", tmp_path)
    edit_config(tmp_path, **changes)
    expected = transformers_logits(tmp_path, {"rope_theta": 5000.0, **meant}, PROMPTS[0])
    assert (logits_of(tmp_path, PROMPTS[0]) - expected).abs().max() <= 1e-4


def test_gemmas_full_layers_take_the_scaling(tmp_path: Path) -> None:
    save_tiny("gemma3", tmp_path)
    ropes = {"sliding_attention": {**PLAIN, "rope_theta": 300.0}, "full_attention": PLAIN}
    edit_config(tmp_path, rope_parameters=ropes, rope_scaling={"rope_type": "linear", "factor": 3.0})
    meant = ropes | {"full_attention": {**PLAIN, "rope_type": "linear", "factor": 3.0}}
    expected = transformers_logits(tmp_path, meant, PROMPTS[0], rope_scaling=meant)
    assert (logits_of(tmp_path, PROMPTS[0]) - expected).abs().max() <= 1e-4


def test_gemmas_values_beside_those_of_kinds_are_nobodys(tmp_path: Path) -> None:
    """As transformers saves and reads them."""
    save_tiny("gemma3", tmp_path)
    kinds = {"sliding_attention": {**PLAIN, "rope_theta": 300.0}, "full_attention": PLAIN}
    edit_config(tmp_path, rope_parameters={**kinds, **PLAIN, "rope_type": "linear", "factor": 3.0})
    expected = transformers_logits(tmp_path, kinds, PROMPTS[0])
    assert (logits_of(tmp_path, PROMPTS[0]) - expected).abs().max() <= 1e-4


def test_gemmas_values_without_kinds_are_told(tmp_path: Path) -> None:
    """People write them who take rope_parameters for the new name of rope_scaling; transformers reads nothing of them."""
    save_tiny("gemma3", tmp_path)
    edit_config(tmp_path, rope_parameters={**PLAIN, "rope_type": "linear", "factor": 3.0})
    with pytest.raises(
        JsonFileError, match=r"rope_parameters is .*, it should be an object for each kind of layers: .*full_attention"
    ):
        logits_of(tmp_path, PROMPTS[0])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rope_parameters": {**PLAIN, "rope_type": "yarn", **YARN}, "rope_scaling": {"type": "yarn", "factor": 2.0}},
         r"rope_parameters has factor 4\.0 and rope_scaling has 2\.0: leave one of them out"),
        ({"rope_parameters": {**PLAIN, "rope_type": "linear", "factor": 4.0}, "rope_scaling": {"type": "yarn", **YARN}},
         r"rope_parameters has rope_type 'linear' and rope_scaling has 'yarn'"),
        ({"rope_parameters": PLAIN, "rope_scaling": None, "rope_theta": 1e6},
         r"rope_parameters has the rope_theta 5000 and rope_theta is 1e\+06: leave one of them out"),
        ({"rope_parameters": None, "rope_scaling": {"type": "yarn", "rope_type": "linear", "factor": 2.0}},
         r"the type 'yarn' and the rope_type 'linear'"),
        ({"rope_parameters": None, "rope_scaling": {"type": "linear"}}, r"rope_scaling: factor is missing"),
        ({"rope_parameters": {"full_attention": PLAIN, "sliding_attention": PLAIN}, "rope_scaling": None},
         r"rope_parameters has full_attention and sliding_attention with values of their own, and all layers of this model"),
        ({"rope_parameters": {**PLAIN, "rope_type": "yarn", **YARN, "rope_theta": 1}}, r"rope_theta is 1, with yarn it should be above 1"),
        ({"rope_parameters": {**PLAIN, "rope_type": "yarn", **YARN, "beta_fast": -3}}, r"beta_fast is -3, it should be a number above 0"),
        ({"rope_parameters": {**PLAIN, "rope_type": "llama3", "factor": 4, "low_freq_factor": 4, "high_freq_factor": 4}},
         r"high_freq_factor is 4, it should be above low_freq_factor \(4\)"),
        ({"rope_parameters": None, "rope_scaling": {"type": "linear", "factor": 0.5}}, r"factor is 0\.5, it should be .* at least 1"),
    ],
)  # fmt: skip
def test_contradictions_are_refused(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    save_tiny("qwen2", tmp_path)
    edit_config(tmp_path, **changes)
    with pytest.raises(JsonFileError, match=message):
        read_spec(tmp_path)


@pytest.mark.parametrize(
    "places", [{"rope_parameters": {**PLAIN, "partial_rotary_factor": 0.5}}, {"partial_rotary_factor": 0.5}]
)
def test_partial_rotations_are_refused_wherever_they_stand(places: dict[str, Any], tmp_path: Path) -> None:
    save_tiny("llama", tmp_path)
    edit_config(tmp_path, **places)
    with pytest.raises(UnsupportedModelError, match="partial_rotary_factor is not supported"):
        read_spec(tmp_path)


@pytest.mark.parametrize(
    "rope",
    [{"rope_type": "yarn", **YARN, "attn_factor": 2.0}, {"rope_type": "dynamic", "factor": 1.0, "alpha": 1000.0}],
)
def test_values_of_positions_that_nobody_reads_are_refused(rope: dict[str, Any], tmp_path: Path) -> None:
    save_tiny("llama", tmp_path)
    edit_config(tmp_path, rope_parameters={**PLAIN, **rope})
    with pytest.raises(UnsupportedModelError, match=r"rope_parameters has (attn_factor|alpha), which is not supported"):
        read_spec(tmp_path)
    edit_config(
        tmp_path, rope_parameters={**PLAIN, "rope_type": "yarn", **YARN, "extrapolation_factor": 1, "finetuned": True}
    )
    assert read_spec(tmp_path).layers[0].rotary is not None


def test_yarns_longer_context_can_be_used(tmp_path: Path) -> None:
    save_tiny("qwen2", tmp_path)
    assert read_spec(tmp_path).max_position_embeddings == 64
    edit_config(tmp_path, rope_parameters=PLAIN, rope_scaling={"type": "yarn", **YARN})
    spec = read_spec(tmp_path)
    assert spec.max_position_embeddings == 256
    expected = transformers_logits(tmp_path, {**PLAIN, "rope_type": "yarn", **YARN}, LONG_PROMPT)
    assert (logits_of(tmp_path, LONG_PROMPT) - expected).abs().max() <= 2e-4
    assert spec.longest_sequence(256) == 256
    with pytest.raises(ValueError, match="more than the model's 256 positions"):
        spec.longest_sequence(257)


@pytest.mark.parametrize(("max_positions", "longest"), [(64, 128), (128, 128), (300, 300)])
def test_yarn_never_shortens_a_context(max_positions: int, longest: int) -> None:
    """Some configurations have its longer context in ``max_position_embeddings``, some a still longer one."""
    rope = {"rope_type": "yarn", "factor": 2.0, "original_max_position_embeddings": 64}
    rotary = rotary_of(JsonObject({"rope_scaling": rope}, "config.json"), 10_000.0, max_positions)
    assert longest_context(rotary, max_positions) == longest

"""Which files and tensors of a folder count: as transformers chooses and names them, and never something in silence."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from specgrove.files.json_files import JsonFileError
from specgrove.models.errors import UnsupportedModelError
from specgrove.models.folders.inventory import describe
from specgrove.models.weights.quantization import quantize_folder
from specgrove.models.weights.safetensors_files import weight_files_of
from specgrove.program.loading import load_decoder
from specgrove.runtime.model_runner import ModelRunner
from tests.conftest import save_tiny_llama
from tests.files.test_json_files import LFS_POINTER
from tests.models.families import save_tiny
from tests.models.quantized_folders import edit_config
from tests.models.test_decoder import PROMPTS, chunked_logits

WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"


def logits_of(folder: Path) -> torch.Tensor:
    return chunked_logits(ModelRunner(load_decoder(folder, torch.float32), 64), PROMPTS[0], 11)


def rename(folder: Path, new_name: Callable[[str], str | None]) -> None:
    tensors = load_file(folder / WEIGHTS)
    renamed = {new: tensor for name, tensor in tensors.items() if (new := new_name(name)) is not None}
    save_file(renamed, folder / WEIGHTS)


def write_index(folder: Path, weight_map: object) -> None:
    (folder / INDEX).write_text(json.dumps({"weight_map": weight_map}))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    save_tiny_llama(tmp_path / "model", seed=3)
    (tmp_path / "model" / "tokenizer.json").write_text("{}")
    return tmp_path / "model"


def test_one_file_comes_before_a_stale_index(folder: Path) -> None:
    expected = logits_of(folder)
    old = {name: torch.zeros_like(tensor) for name, tensor in load_file(folder / WEIGHTS).items()}
    save_file(old, folder / "model-00001-of-00001.safetensors")
    write_index(folder, dict.fromkeys(old, "model-00001-of-00001.safetensors"))
    assert torch.equal(logits_of(folder), expected)


def test_an_index_may_name_the_one_file_among_others(folder: Path) -> None:
    expected = logits_of(folder)
    tensors = load_file(folder / WEIGHTS)
    moved = {"model.norm.weight": tensors.pop("model.norm.weight")}
    save_file(tensors, folder / WEIGHTS)
    save_file(moved, folder / "more.safetensors")
    write_index(folder, dict.fromkeys(tensors, WEIGHTS) | dict.fromkeys(moved, "more.safetensors"))
    assert torch.equal(logits_of(folder), expected)


def test_the_index_comes_before_other_files(folder: Path) -> None:
    expected = logits_of(folder)
    tensors = load_file(folder / WEIGHTS)
    (folder / WEIGHTS).rename(folder / "new.safetensors")
    save_file({name: torch.zeros_like(tensor) for name, tensor in tensors.items()}, folder / "old.safetensors")
    write_index(folder, dict.fromkeys(tensors, "new.safetensors"))
    assert torch.equal(logits_of(folder), expected)


def test_the_index_says_which_of_two_files_counts(folder: Path) -> None:
    expected = logits_of(folder)
    tensors = load_file(folder / WEIGHTS)
    (folder / WEIGHTS).rename(folder / "a.safetensors")
    norm, head = "model.norm.weight", "lm_head.weight"
    save_file({head: tensors[head] * 0, norm: tensors[norm]}, folder / "b.safetensors")
    write_index(folder, dict.fromkeys(tensors, "a.safetensors") | {norm: "b.safetensors"})
    assert torch.equal(logits_of(folder), expected)


def test_a_name_twice_without_an_index_is_refused(folder: Path) -> None:
    (folder / WEIGHTS).rename(folder / "a.safetensors")
    (folder / "b.safetensors").write_bytes((folder / "a.safetensors").read_bytes())
    with pytest.raises(ValueError, match=r"both a\.safetensors and b\.safetensors hold .*leave only the files of one"):
        load_decoder(folder, torch.float32)


@pytest.mark.parametrize("name", ["._a.safetensors", "optimizer.safetensors", "random_states_0.safetensors"])
def test_files_beside_the_weights_are_none(name: str, folder: Path) -> None:
    """What other systems leave, and what training goes on from."""
    expected = logits_of(folder)
    (folder / WEIGHTS).rename(folder / "a.safetensors")
    save_file({"state": torch.ones(1)}, folder / name)
    assert torch.equal(logits_of(folder), expected)


def test_an_index_of_another_checkpoint_is_refused(folder: Path) -> None:
    (folder / WEIGHTS).rename(folder / "a.safetensors")
    write_index(folder, dict.fromkeys([*load_file(folder / "a.safetensors"), "model.more.weight"], "a.safetensors"))
    with pytest.raises(JsonFileError, match=r"index\.json lists 1 tensors, model\.more\.weight for one, that a\.safet"):
        load_decoder(folder, torch.float32)


@pytest.mark.parametrize(
    "file",
    [
        "../model.safetensors",
        "/etc/model.safetensors",
        "a/../../x.safetensors",
        "x.bin",
        7,
        "..\\x.safetensors",
        "a/x.safetensors",
        "x.safetensors\0.safetensors",
    ],
)
def test_an_index_never_leads_out_of_its_folder(file: object, folder: Path) -> None:
    (folder / WEIGHTS).rename(folder.parent / WEIGHTS)
    write_index(folder, {"a": file})
    with pytest.raises(JsonFileError, match=r"weight_map sends a to .*in the index's own folder"):
        weight_files_of(folder)


@pytest.mark.parametrize("content", ["{", "[]", "{}", '{"weight_map": []}', '{"weight_map": {}}', LFS_POINTER])
def test_a_broken_index_is_named(content: str, folder: Path) -> None:
    (folder / WEIGHTS).rename(folder / "a.safetensors")
    (folder / INDEX).write_text(content)
    with pytest.raises(JsonFileError, match=r"model\.safetensors\.index\.json"):
        weight_files_of(folder)
    assert describe(folder).problem is not None


PREFIXES = {
    "the bare model's": lambda name: name.removeprefix("model."),
    "transformer.": lambda name: name.replace("model.", "transformer.", 1),
    "language_model.": lambda name: name.replace("model.", "language_model.", 1) if name.startswith("model.") else name,
    "a text model inside": lambda name: f"language_model.{name}",
    "model.language_model.": lambda name: name.replace("model.", "model.language_model.", 1),
    "a wrapper's": lambda name: f"module.{name}",
    "PEFT's": lambda name: f"base_model.model.{name}",
    "FSDP's": lambda name: f"_fsdp_wrapped_module.{name}",
    "llm.": lambda name: f"llm.{name}",
    "text_model.": lambda name: f"text_model.{name}",
}


@pytest.mark.parametrize("kind", PREFIXES)
def test_names_under_usual_prefixes_are_found(kind: str, folder: Path) -> None:
    expected = logits_of(folder)
    rename(folder, PREFIXES[kind])
    assert torch.equal(logits_of(folder), expected)
    assert describe(folder).problem is None
    quantize_folder(folder, folder.parent / "int8", 8)  # whatever reads a folder knows them
    load_decoder(folder.parent / "int8", torch.float32)


@pytest.mark.parametrize("variant", ["opt", "falcon-40b", "gpt-bigcode", "mpt", "gemma3", "qwen2"])
def test_every_family_loads_the_bare_models_names(variant: str, tmp_path: Path) -> None:
    save_tiny(variant, tmp_path)
    expected = logits_of(tmp_path)
    rename(tmp_path, lambda name: name.removeprefix("model.").removeprefix("transformer."))
    assert torch.equal(logits_of(tmp_path), expected)


def test_names_that_are_not_found_are_told_with_those_that_are_there(folder: Path) -> None:
    rename(folder, lambda name: f"policy.{name}")
    with pytest.raises(UnsupportedModelError, match=r"no tensors model\.layers\.0\.….*it has policy\.lm_head\.weight"):
        load_decoder(folder, torch.float32)


def test_a_tied_checkpoint_may_have_kept_its_head_only(tmp_path: Path) -> None:
    folder = save_tiny_llama(tmp_path / "model", seed=3, tie_word_embeddings=True)
    expected = logits_of(folder)
    rename(folder, lambda name: "lm_head.weight" if name == "model.embed_tokens.weight" else name)
    assert torch.equal(logits_of(folder), expected)
    quantize_folder(folder, tmp_path / "int8", 8)
    load_decoder(tmp_path / "int8", torch.float32)
    edit_config(folder, tie_word_embeddings=False)
    with pytest.raises(UnsupportedModelError, match=r"no tensor 'model\.embed_tokens\.weight'"):
        load_decoder(folder, torch.float32)


def test_tensors_that_nobody_reads_are_an_error(folder: Path) -> None:
    tensors = load_file(folder / WEIGHTS)
    save_file(tensors | {"model.layers.1.mlp.gate_proj.bias_of_mine": torch.ones(1)}, folder / WEIGHTS)
    with pytest.raises(UnsupportedModelError, match=r"1 tensors that LlamaForCausalLM .*gate_proj\.bias_of_mine"):
        load_decoder(folder, torch.float32)
    assert "bias_of_mine" in str(describe(folder).problem)


def test_a_configuration_of_fewer_layers_is_refused(folder: Path) -> None:
    edit_config(folder, num_hidden_layers=2)
    with pytest.raises(UnsupportedModelError, match=r"tensors that LlamaForCausalLM .*model\.layers\.2\."):
        load_decoder(folder, torch.float32)


def test_harmless_leftovers_are_told_in_one_line(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    expected = logits_of(folder)
    extra = {
        "model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(4),
        "model.layers.1.self_attn.rotary_emb.inv_freq": torch.ones(4),
        "model.layers.0.self_attn.k_scale": torch.ones(1),
        "vision_tower.blocks.0.weight": torch.ones(2, 2),
        "v_head.summary.weight": torch.ones(1, 48),
        "model.layers.0.mlp._extra_state": torch.ones(3, dtype=torch.uint8),
    }
    save_file(load_file(folder / WEIGHTS) | extra, folder / WEIGHTS)
    with caplog.at_level("INFO"):
        assert torch.equal(logits_of(folder), expected)
    lines = [record.getMessage() for record in caplog.records if "left out" in record.getMessage()]
    assert len(lines) == 1
    assert "6 tensors are not needed" in lines[0]


def test_what_is_missing_is_told_by_headers_alone(folder: Path) -> None:
    tensors = load_file(folder / WEIGHTS)
    del tensors["model.layers.1.mlp.down_proj.weight"]
    save_file(tensors, folder / WEIGHTS)
    assert "model.layers.1.mlp.down_proj.weight" in str(describe(folder).problem)
    (folder / WEIGHTS).write_text(LFS_POINTER)
    assert "Git LFS pointer" in str(describe(folder).problem)
    with pytest.raises(UnsupportedModelError, match="Git LFS pointer"):
        load_decoder(folder, torch.float32)


def test_whole_numbers_without_scales_are_no_weights(folder: Path) -> None:
    tensors = load_file(folder / WEIGHTS)
    name = "model.layers.0.mlp.up_proj.weight"
    save_file(tensors | {name: tensors[name].to(torch.int8)}, folder / WEIGHTS)
    with pytest.raises(UnsupportedModelError, match=r"up_proj\.weight holds I8, and nothing says what numbers"):
        load_decoder(folder, torch.float32)


_WINDOWS = {"architectures": ["Qwen3ForCausalLM"], "use_sliding_window": True}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"hidden_size": "48"}, r'hidden_size is "48", it should be a whole number'),
        ({"num_hidden_layers": None}, r"num_hidden_layers is null"),
        ({"rms_norm_eps": "small"}, r"rms_norm_eps is \"small\", it should be a number"),
        ({"rope_parameters": "yarn"}, r"rope_parameters is \"yarn\", it should be an object"),
        ({"rope_parameters": {"rope_type": "linear", "factor": "2"}}, r"rope_parameters: factor is \"2\", it should"),
        ({"architectures": "LlamaForCausalLM"}, r"architectures is .*it should be a list of texts"),
        ({"tie_word_embeddings": "yes"}, r"tie_word_embeddings is \"yes\", it should be true or false"),
        ({"vocab_size": 0}, r"vocab_size is 0, it should be a whole number of at least 1"),
        ({"num_hidden_layers": 10**30}, r"num_hidden_layers is 1000000000000000000000000000000, it should be at most"),
        ({"max_position_embeddings": 10**12}, r"max_position_embeddings is 1000000000000, it should be at most 2147483647"),
        ({"quantization_config": "fp8"}, r"quantization_config is \"fp8\", it should be an object"),
        ({"layer_types": ["full_attention"], **_WINDOWS}, r"layer_types is .* a list of 3"),
    ],
)  # fmt: skip
def test_wrong_values_of_a_configuration_are_named(changes: dict[str, object], message: str, folder: Path) -> None:
    edit_config(folder, **changes)
    with pytest.raises(JsonFileError, match=r"config\.json: " + message):
        load_decoder(folder, torch.float32)
    assert describe(folder).problem is not None


@pytest.mark.parametrize("number", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize(
    "name", ["model.layers.1.mlp.down_proj.weight", "model.embed_tokens.weight", "model.norm.weight", "lm_head.weight"]
)
def test_weights_that_hold_no_numbers_are_told_when_they_are_loaded(name: str, number: float, folder: Path) -> None:
    tensors = load_file(folder / WEIGHTS)
    tensors[name].view(-1)[-1] = number
    save_file(tensors, folder / WEIGHTS)
    with pytest.raises(UnsupportedModelError, match=rf"model: {name} holds NaN or infinity"):
        load_decoder(folder, torch.bfloat16)


def test_scales_that_are_no_numbers_are_told(folder: Path) -> None:
    quantize_folder(folder, folder.parent / "int4", 4)
    tensors = load_file(folder.parent / "int4" / WEIGHTS)
    name = "model.layers.0.self_attn.k_proj.weight"
    tensors[f"{name}.mins"].view(-1)[0] = torch.nan
    save_file(tensors, folder.parent / "int4" / WEIGHTS)
    with pytest.raises(UnsupportedModelError, match=rf"int4: {name} holds NaN"):
        load_decoder(folder.parent / "int4", torch.float32)


def test_numbers_that_float16_has_not_are_told_where_they_would_be_rounded(folder: Path) -> None:
    tensors = load_file(folder / WEIGHTS)
    tensors["lm_head.weight"][0, 0] = 1e5
    tensors["model.norm.weight"][0] = 1e5  # norms stay in float32
    save_file(tensors, folder / WEIGHTS)
    load_decoder(folder, torch.bfloat16)
    with pytest.raises(UnsupportedModelError, match=r"lm_head.weight holds numbers of 1e\+05, more than float16 has"):
        load_decoder(folder, torch.float16)

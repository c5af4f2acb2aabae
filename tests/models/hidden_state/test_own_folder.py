import json
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file, save_file

from specgrove.files.json_files import JsonFileError, JsonObject
from specgrove.models.errors import UnsupportedModelError
from specgrove.models.hidden_state.own_config import own_config_of, own_spec_of
from specgrove.models.hidden_state.own_folder import load_own_folder, save_own_folder
from tests.models.hidden_state.tiny_ssms import TINY, random_module


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"input_norms": "none", "has_fed_back_map": False},
        {"has_embedding_residual": False, "candidate_rank": None, "first_choice_floor": None, "vocab_sha256": ""},
    ],
)
def test_a_folder_gives_back_what_was_saved(tmp_path, changes):
    module = random_module(**changes)
    save_own_folder(tmp_path, module, torch.float32)
    loaded = load_own_folder(tmp_path)
    assert loaded.spec == module.spec
    for name, tensor in module.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], tensor)


def test_the_tensors_have_the_names_of_the_contract(tmp_path):
    save_own_folder(tmp_path, random_module())
    names = set(load_file(tmp_path / "model.safetensors"))
    projections = ("q", "k", "v", "o", "gate", "up", "down")
    assert names == {
        "fc.weight",
        *(f"tap_norms.{i}.weight" for i in range(3)),
        *(f"layer.{name}_norm.weight" for name in ("input", "hidden", "post_attention")),
        *(f"layer.{name}_proj.weight" for name in projections),
        *(f"{name}.weight" for name in ("norm", "embedding_residual", "fed_back", "fed_back_embedding")),
        "candidate_head.down",
        "candidate_head.up",
    }


def _config(**changes):
    return JsonObject({**own_config_of(TINY), **changes}, "config.json")


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"num_layers": 2}, "num_layers is not known"),
        ({"hidden_layers": [3, 2]}, "hidden_layers is .* rising"),
        ({"hidden_layers": []}, "hidden_layers is .* rising"),
        ({"hidden_window": 0}, "hidden_window"),
        ({"first_choice_floor": 1.5}, "first_choice_floor is 1.5, it should be a share"),
        ({"calibration": {"depth_scales": [0]}}, "depth_scales is .* from 0.001 to 1000"),
        ({"calibration": {"depth_scales": [1e-300]}}, "depth_scales is .* from 0.001 to 1000"),
        ({"calibration": {"noise_weight": 1e300}}, "noise_weight is .* at most 100"),
        ({"calibration": {"scales": [1]}}, "scales is not known"),
        ({"hidden_size": "64"}, "hidden_size"),
    ],
)
def test_what_is_wrong_in_a_configuration_is_named(changes, told):
    with pytest.raises((UnsupportedModelError, JsonFileError), match=told):
        own_spec_of(_config(**changes))


@pytest.mark.parametrize(
    ("edit", "told"),
    [
        (lambda tensors: tensors.pop("fc.weight"), "lacks the tensors fc.weight"),
        (lambda tensors: tensors.update(extra=torch.zeros(2)), "has the tensors extra, which"),
        (lambda tensors: tensors.update({"norm.weight": torch.zeros(2)}), r"norm.weight has the shape \[2\]"),
    ],
)
def test_what_is_wrong_with_the_tensors_is_named(tmp_path, edit, told):
    save_own_folder(tmp_path, random_module())
    tensors = load_file(tmp_path / "model.safetensors")
    edit(tensors)
    save_file(tensors, tmp_path / "model.safetensors")
    with pytest.raises(UnsupportedModelError, match=told):
        load_own_folder(tmp_path)


def test_what_only_published_checkpoints_have_is_not_written():
    with pytest.raises(ValueError, match="published"):
        own_config_of(replace(TINY, has_own_head=True))
    assert json.dumps(own_config_of(TINY))


def test_contradictory_specs_are_refused():
    with pytest.raises(ValueError, match="normed residual"):
        replace(TINY, residual_is_normed=True)
    with pytest.raises(ValueError, match="must rise"):
        replace(TINY, hidden_layers=(2, 2))

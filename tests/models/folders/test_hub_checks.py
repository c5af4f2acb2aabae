"""What is said of a hub's model before its weights are fetched, by its small files and the names of the others."""

from __future__ import annotations

from pathlib import Path

import huggingface_hub
import pytest

from specgrove.files.json_files import JsonFileError
from specgrove.models.errors import UnsupportedModelError
from specgrove.models.folders.hub_checks import problem_of_hub_model
from tests.models.folders.test_hub_weights import CONFIG

NAMES = ["config.json", "tokenizer.json", "model.safetensors"]


def problem(
    folder: Path, names: list[str] | None, monkeypatch: pytest.MonkeyPatch, *, needs_tokenizer: bool = True
) -> str | None:
    """``names`` is None where the hub can't be reached."""

    class Api:
        def list_repo_files(self, model: str) -> list[str]:
            if names is None:
                raise OSError("no network")
            return names

    monkeypatch.setattr(huggingface_hub, "HfApi", Api)
    return problem_of_hub_model("owner/model", folder, needs_tokenizer=needs_tokenizer)


@pytest.mark.parametrize(
    ("without", "more", "told"),
    [
        ("config.json", [], "'owner/model' has no config.json: a model has"),
        ("tokenizer.json", [], "'owner/model' has no tokenizer.json"),
        ("model.safetensors", ["a-Q4_0.gguf", "b/a-Q8_0.gguf"], "has GGUF files, a-Q4_0.gguf, b/a-Q8_0.gguf: choose one, fetch it"),
        ("model.safetensors", ["pytorch_model.bin"], "has pickle files only, which SpecGrove never fetches: fetch them"),
        ("model.safetensors", ["onnx/model.safetensors"], "'owner/model' has no *.safetensors file"),
    ],
)  # fmt: skip
def test_what_is_missing_is_told(
    without: str, more: list[str], told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "config.json").write_bytes(CONFIG)
    names = [*(name for name in NAMES if name != without), *more]
    assert told in str(problem(tmp_path, names, monkeypatch))
    assert problem(tmp_path, NAMES, monkeypatch) is None
    # Without the hub nothing is said of what it may have.
    assert problem(tmp_path, None, monkeypatch) is None


def test_an_ssm_needs_no_tokenizer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "config.json").write_bytes(b'{"architectures": ["LlamaForCausalLMEagle3"]}')
    assert problem(tmp_path, ["config.json", "model.safetensors"], monkeypatch, needs_tokenizer=False) is None


@pytest.mark.parametrize(
    ("config", "told"),
    [
        (b'{"architectures": ["MixtralForCausalLM"]}', "architecture MixtralForCausalLM is not supported, only"),
        (CONFIG[:-1] + b', "partial_rotary_factor": 0.5}', "partial_rotary_factor is not supported"),
        (b"{", "is not JSON"),
    ],
)
def test_a_config_that_cannot_be_served_is_told(
    config: bytes, told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "config.json").write_bytes(config)
    with pytest.raises((UnsupportedModelError, JsonFileError), match=told):
        problem(tmp_path, NAMES, monkeypatch)

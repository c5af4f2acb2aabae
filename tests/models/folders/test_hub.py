"""Finding model folders: what is accepted, and that every error says what is wrong and what would be right."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import huggingface_hub
import numpy as np
import pytest
from huggingface_hub import errors as hub_errors
from safetensors.numpy import save_file

from specgrove.models.folders import hub, hub_weights
from specgrove.models.folders.hub import DEMO_LLM, ModelNotFoundError, check_model_folder, check_named, resolve_model
from specgrove.models.folders.inventory import find_model
from specgrove.models.folders.model_files import is_gguf_file, name_of


@pytest.fixture
def model_folder(tmp_path: Path) -> Path:
    """A folder that passes; the tests below each break one thing."""
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text('{"model_type": "llama"}')
    (folder / "tokenizer.json").write_text("{}")
    save_file({"a": np.zeros((8, 8), np.float32)}, folder / "model.safetensors")
    return folder


@pytest.fixture(scope="session")
def demo_llm() -> Path:
    """The demo LLM in the user's cache, made if it isn't there."""
    return resolve_model(DEMO_LLM, cache_dir=Path.home() / ".cache" / "specgrove", progress=print)


def resolve(model: str, tmp_path: Path) -> Path:
    return resolve_model(model, cache_dir=tmp_path / "cache", progress=lambda _: None)


def test_folder_is_itself(model_folder: Path, tmp_path: Path) -> None:
    assert resolve(str(model_folder), tmp_path) == model_folder


def test_missing_folder(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFoundError, match="does not exist"):
        check_model_folder(tmp_path / "nothing")
    with pytest.raises(ModelNotFoundError, match=r"is not there; give a model folder, a .gguf file"):
        resolve(str(tmp_path / "nothing"), tmp_path)


def test_what_is_missing_is_told_with_what_lies_beside(model_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "qwen-1.5b.gguf").touch()
    (tmp_path / "notes.txt").touch()
    with pytest.raises(ModelNotFoundError, match=r"qwen-1.5.gguf is not there; beside it: qwen-1.5b.gguf, model; give"):
        resolve(str(tmp_path / "qwen-1.5.gguf"), tmp_path)
    with pytest.raises(ModelNotFoundError, match=r"x.gguf is not there, nor is the folder .*no; give"):
        resolve(str(tmp_path / "no" / "x.gguf"), tmp_path)
    (tmp_path / "link.gguf").symlink_to("/gone.gguf")
    with pytest.raises(ModelNotFoundError, match=r"link.gguf leads to /gone.gguf, which is not there"):
        resolve(str(tmp_path / "link.gguf"), tmp_path)


@pytest.mark.parametrize("model", ["nope.gguf", "owner/nope.gguf", "weights.safetensors"])
def test_names_of_files_are_not_looked_for_on_the_hub(model: str) -> None:
    assert not hub.is_hub_id(model)


@pytest.mark.parametrize("model", ["", "a b", "../x", "a/b/c", "https://example.org/model", "owner/"])
def test_neither_folder_nor_id(model: str, tmp_path: Path) -> None:
    with pytest.raises(ModelNotFoundError, match="give a model folder"):
        resolve(model, tmp_path)


def test_no_config(model_folder: Path) -> None:
    (model_folder / "config.json").unlink()
    with pytest.raises(ModelNotFoundError, match=r"no config\.json"):
        check_model_folder(model_folder)


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("adapter_config.json", r"holds an adapter .*merge_and_unload"),
        ("model_index.json", "holds a pipeline of diffusers"),
        ("params.json", "Meta's or Mistral's own layout"),
        ("checkpoint-7/config.json", "has no config.json, but holds checkpoint-7: give the path of one of these"),
    ],
)
def test_a_folder_without_a_config_is_called_what_it_is(name: str, told: str, tmp_path: Path) -> None:
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text("{}")
    with pytest.raises(ModelNotFoundError, match=told):
        check_model_folder(tmp_path)


def test_config_is_not_json(model_folder: Path) -> None:
    (model_folder / "config.json").write_text("{")
    with pytest.raises(ModelNotFoundError, match="is not JSON"):
        check_model_folder(model_folder)


@pytest.mark.parametrize("name", ["pytorch_model.bin", "pytorch_model-00001-of-00002.bin", "weights.pt", "model.pkl"])
def test_pickle_is_never_loaded(model_folder: Path, name: str) -> None:
    (model_folder / "model.safetensors").rename(model_folder / name)
    with pytest.raises(ModelNotFoundError, match="holds pickle files, which SpecGrove never loads"):
        check_model_folder(model_folder)


def test_no_weights(model_folder: Path) -> None:
    (model_folder / "model.safetensors").unlink()
    with pytest.raises(ModelNotFoundError, match=r"no \*\.safetensors file"):
        check_model_folder(model_folder)


@pytest.mark.parametrize("num_bytes", [0, 4, 40, -1])
def test_truncated_weights(model_folder: Path, num_bytes: int) -> None:
    path = model_folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:num_bytes])
    with pytest.raises(ModelNotFoundError, match="truncated"):
        check_model_folder(model_folder)


def test_index_lists_a_missing_file(model_folder: Path) -> None:
    index = {"weight_map": {"a": "model.safetensors", "b": "model-00002-of-00002.safetensors"}}
    (model_folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(ModelNotFoundError, match=r"lacks model-00002-of-00002\.safetensors"):
        check_model_folder(model_folder)


def test_no_tokenizer(model_folder: Path) -> None:
    (model_folder / "tokenizer.json").unlink()
    with pytest.raises(ModelNotFoundError, match=r"no tokenizer\.json"):
        check_model_folder(model_folder)
    check_model_folder(model_folder, needs_tokenizer=False)


def test_hub_id_downloads_no_pickle(model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: dict[str, object] = {}

    def snapshot_download(repo_id: str, **options: object) -> str:
        asked.update(options, repo_id=repo_id)
        return str(model_folder)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    assert resolve("owner/name", tmp_path) == model_folder
    assert asked["repo_id"] == "owner/name"
    assert not any(str(pattern).endswith((".bin", ".pt", ".pkl")) for pattern in hub.DOWNLOADED_FILES)
    assert asked["allow_patterns"] == list(hub.DOWNLOADED_FILES)


def test_hub_can_not_be_reached(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def snapshot_download(repo_id: str, **options: object) -> str:
        raise hub_errors.LocalEntryNotFoundError("no network")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    with pytest.raises(ModelNotFoundError, match="not in the local hub cache"):
        resolve("owner/name", tmp_path)


def test_import_is_light() -> None:
    code = "import sys, specgrove.models.folders.hub; sys.exit('torch' in sys.modules or 'transformers' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_demo_llm_tokenizer(demo_llm: Path) -> None:
    """Digits stand alone and special tokens are one token, as in SmolLM2's own tokenizer."""
    import tokenizers

    tokenizer = tokenizers.Tokenizer.from_file(str(demo_llm / "tokenizer.json"))
    assert tokenizer.encode("In 1234").tokens == ["In", "Ġ", "1", "2", "3", "4"]
    assert tokenizer.encode("<|im_start|>user\nHi<|im_end|>\n").ids[0] == 1
    assert 2 in tokenizer.encode("Hi<|im_end|>\n").ids
    assert json.loads((demo_llm / "config.json").read_text())["eos_token_id"] == 2
    assert (demo_llm / "chat_template.jinja").is_file()


@pytest.mark.parametrize("model", ["~nobody-of-this-name/model", "a\0b", "x" * 5000, "/x" * 3000])
def test_what_can_be_no_path_is_told(model: str, tmp_path: Path) -> None:
    for find in (resolve_model, lambda model, cache_dir, progress: find_model(model, cache_dir, progress)):
        with pytest.raises(ModelNotFoundError, match=r"can't be a path \(.+\), and is no hub id") as raised:
            find(model, cache_dir=tmp_path, progress=print)
        assert len(str(raised.value)) < 300


def test_a_pipe_is_no_model_and_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    # Without somebody who writes a defect would hang the test.
    writer = subprocess.Popen([sys.executable, "-c", f"open({str(tmp_path / 'pipe')!r}, 'wb').write(b'GGUF')"])
    try:
        assert not is_gguf_file(tmp_path / "pipe")
    finally:
        writer.kill()
        writer.wait()


def test_a_folder_in_place_of_the_weights_is_told(model_folder: Path) -> None:
    (model_folder / "model.safetensors").unlink()
    (model_folder / "model.safetensors").mkdir()
    with pytest.raises(ModelNotFoundError, match=r"lacks model\.safetensors \(a broken link, or no file\)"):
        check_model_folder(model_folder)


def test_models_in_our_cache_are_called_without_digests(tmp_path: Path) -> None:
    names = {
        tmp_path / "gguf" / "qwen-1.5b-416352bf3b52": "qwen-1.5b",
        tmp_path / "quantized" / "qwen-1.5b-498d9fde9142-int8": "qwen-1.5b-int8",
        tmp_path
        / "quantized"
        / "qwen-1.5b-416352bf3b52-498d9fde9142-int8": "qwen-1.5b-416352bf3b52-int8",  # of old versions
        tmp_path / "qwen-1.5b-416352bf3b52": "qwen-1.5b-416352bf3b52",
        tmp_path / "models--owner--name" / "snapshots" / "abc": "owner/name",
        tmp_path / "qwen" / "sub" / "..": "qwen",
    }
    assert {folder: name_of(folder) for folder in names} == names


@pytest.mark.parametrize(
    ("model", "needs_tokenizer", "said"),
    [
        ("looku", False, "there is no folder or file 'looku'; did you mean lookup?"),
        ("smollm2-135m-instrct", True, "did you mean smollm2-135m-instruct?"),
        ("./no/such", False, "or 'lookup' or 'recycle' or 'demo' or 'demo-hidden'"),
        ("./no/such", True, "or 'smollm2-135m-instruct'"),
    ],
)
def test_what_is_not_there_is_told_with_what_comes_with_the_package(
    model: str, needs_tokenizer: bool, said: str
) -> None:
    with pytest.raises(ModelNotFoundError) as raised:
        check_named(model, needs_tokenizer=needs_tokenizer)
    assert said in str(raised.value)
    check_named("owner/demo", needs_tokenizer=False)  # it may be in the hub


@pytest.mark.parametrize("kind", [ImportError, hub_weights._http.InvalidURL])
def test_a_proxy_that_cannot_be_used_is_told(kind: type[Exception], monkeypatch: pytest.MonkeyPatch) -> None:
    """The library finds it in the environment."""
    failure = kind("Invalid port: 'abc'")

    def snapshot_download(repo_id: str, **options: object) -> str:
        raise failure

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    with pytest.raises(ModelNotFoundError, match=f"could not be fetched from the hub: {failure}"):
        hub.fetch_from_hub("owner/model", ("*.json",))

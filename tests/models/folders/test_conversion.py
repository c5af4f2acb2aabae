"""Conversion to safetensors: the values of GGUF and pickle files, and that pickle never runs code."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from specgrove.files.json_files import JsonFileError
from specgrove.models.errors import UnsupportedModelError
from specgrove.models.folders.conversion import convert_model
from specgrove.models.folders.hub import check_model_folder
from specgrove.models.folders.model_files import quantization_of
from specgrove.program.loading import load_decoder
from specgrove.runtime.model_runner import ModelRunner
from tests.conftest import save_tiny_llama
from tests.models.gguf_writing import save_tiny_gguf
from tests.models.test_decoder import PROMPTS, chunked_logits


@pytest.mark.parametrize(("kind", "dtype"), [("Q5_0", None), ("Q4_1", "float32"), ("F16", None)])
def test_gguf_files_of_any_type_become_a_model_folder(kind: str, dtype: str | None, tmp_path: Path) -> None:
    values = save_tiny_gguf(tmp_path / "tiny.gguf", kind)
    convert_model(tmp_path / "tiny.gguf", tmp_path / "out", dtype)
    check_model_folder(tmp_path / "out")
    expected = {None: torch.float16 if kind == "F16" else torch.bfloat16, "float32": torch.float32}[dtype]
    tensors = load_file(tmp_path / "out" / "model.safetensors")
    assert tensors.keys() == values.keys()
    for name, tensor in tensors.items():
        assert tensor.dtype == expected
        assert torch.equal(tensor, values[name].to(expected))
    assert quantization_of(tmp_path / "out") is None
    load_decoder(tmp_path / "out", torch.float32)


def pickled(folder: Path) -> Path:
    """A saved Llama with its weights in two pickle files; two of its tensors share memory."""
    save_tiny_llama(folder, seed=6)
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    names = sorted(tensors)
    torch.save({name: tensors[name] for name in names[:9]}, folder / "pytorch_model-00001-of-00002.bin")
    twice = {**{name: tensors[name] for name in names[9:]}, "model.rotary_emb.inv_freq": tensors[names[-1]]}
    torch.save(twice, folder / "pytorch_model-00002-of-00002.bin")
    files = ["pytorch_model-00001-of-00002.bin"] * 9 + ["pytorch_model-00002-of-00002.bin"] * (len(names) - 9)
    weight_map = dict(zip(names, files, strict=True))
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": weight_map}))
    (folder / "tokenizer.json").write_text("{}")
    torch.save({"lr": 1}, folder / "training_args.bin")
    return folder


def test_pickle_files_become_safetensors(tmp_path: Path) -> None:
    source = pickled(tmp_path / "source")
    convert_model(source, tmp_path / "out", None)
    check_model_folder(tmp_path / "out")
    assert not list((tmp_path / "out").glob("*.bin*"))
    original = save_tiny_llama(tmp_path / "original", seed=6)
    logits = [
        chunked_logits(ModelRunner(load_decoder(folder, torch.float32), 64), PROMPTS[0], 11)
        for folder in (original, tmp_path / "out")
    ]
    assert torch.equal(*logits)
    convert_model(source, tmp_path / "half", "float16")
    assert {tensor.dtype for tensor in load_file(tmp_path / "half" / "model.safetensors").values()} == {torch.float16}
    assert json.loads((tmp_path / "half" / "config.json").read_text())["dtype"] == "float16"


@pytest.mark.parametrize("has_index", [True, False])
def test_half_a_model_is_not_converted(has_index: bool, tmp_path: Path) -> None:
    source = pickled(tmp_path / "source")
    (source / "pytorch_model-00002-of-00002.bin").rename(tmp_path / "elsewhere.bin")
    if not has_index:
        (source / "pytorch_model.bin.index.json").unlink()
    with pytest.raises(ValueError, match=r"source lacks pytorch_model-00002-of-00002\.bin, parts of its weights"):
        convert_model(source, tmp_path / "out", None)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "content", ['{"weight_map": {}}', '{"weight_map": {"a": 1}}', '{"weight_map": {"a": "../b.bin"}}']
)
def test_an_index_of_pickle_files_is_checked(content: str, tmp_path: Path) -> None:
    source = pickled(tmp_path / "source")
    (source / "pytorch_model.bin.index.json").write_text(content)
    with pytest.raises(JsonFileError, match=r"pytorch_model\.bin\.index\.json: weight_map "):
        convert_model(source, tmp_path / "out", None)


def test_one_pickle_file_comes_before_parts_of_another_checkpoint(tmp_path: Path) -> None:
    source = pickled(tmp_path / "source")
    original = load_file(save_tiny_llama(tmp_path / "original", seed=7) / "model.safetensors")
    torch.save(original, source / "pytorch_model.bin")
    convert_model(source, tmp_path / "out", None)
    written = load_file(tmp_path / "out" / "model.safetensors")
    assert all(torch.equal(written[name], tensor) for name, tensor in original.items())


def test_what_is_missing_or_elsewhere_in_a_pickle_file_is_told(tmp_path: Path) -> None:
    source = pickled(tmp_path / "source")
    tensors = load_file(save_tiny_llama(tmp_path / "original", seed=7) / "model.safetensors")
    for content, message in (
        ({"epoch": 3, "state_dict": tensors}, "its tensors lie under 'state_dict', not at its top"),
        (dict(list(tensors.items())[:-1]), f"{source} has no tensor 'model.norm.weight'"),
    ):
        torch.save(content, source / "pytorch_model.bin")
        with pytest.raises(UnsupportedModelError) as raised:
            convert_model(source, tmp_path / "out", None)
        assert message in str(raised.value)
        assert not (tmp_path / "out").exists()


class Malicious:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, ("touch /tmp/specgrove_was_here",)


def test_pickle_that_would_run_code_is_refused(tmp_path: Path) -> None:
    save_tiny_llama(tmp_path / "source", seed=6)
    (tmp_path / "source" / "model.safetensors").unlink()
    torch.save({"weight": Malicious()}, tmp_path / "source" / "pytorch_model.bin")
    with pytest.raises(UnsupportedModelError, match=r"pytorch_model\.bin holds more than weights or is broken"):
        convert_model(tmp_path / "source", tmp_path / "out", None)
    assert not Path("/tmp/specgrove_was_here").exists()
    assert not (tmp_path / "out").exists()


def test_only_this_place_reads_models_from_pickle() -> None:
    """Training reads the states that it wrote itself; the LLM service and the processes that make its masks read each other's messages."""
    root = Path(__file__).parents[3]
    own = {"mask_server.py", "mask_streams.py"}
    folders = [root / name for name in ("specgrove", "llm_service", "ssm_service", "router")]
    sources = [path for folder in folders for path in folder.rglob("*.py") if path.parent.name != "training"]
    loading = [path for path in sources if "torch.load(" in path.read_text() or "pickle.load" in path.read_text()]
    loading = [path for path in loading if path.name not in own]
    assert [path.name for path in loading] == ["conversion.py"]
    assert "weights_only=True" in loading[0].read_text()


def test_nothing_to_convert_is_said(tmp_path: Path) -> None:
    folder = save_tiny_llama(tmp_path / "source", seed=6)
    with pytest.raises(ValueError, match="holds safetensors: there is nothing to convert"):
        convert_model(folder, tmp_path / "out", None)
    shutil.rmtree(folder)
    with pytest.raises(ValueError, match="is not there"):
        convert_model(folder, tmp_path / "out", None)
    folder.mkdir()
    with pytest.raises(ValueError, match=r"no config\.json and pytorch_model\*\.bin"):
        convert_model(folder, tmp_path / "out", None)

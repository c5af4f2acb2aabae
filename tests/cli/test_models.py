"""``specgrove models`` and ``specgrove quantize``: what they print, and the folders that they make."""

from __future__ import annotations

import functools
import json
import shutil
from dataclasses import replace
from pathlib import Path

import huggingface_hub
import pytest
import torch

from llm_service.arguments import parse_arguments
from llm_service.loading import load_runner, plan
from specgrove.cli import main
from specgrove.models.folders import inventory
from specgrove.models.folders.model_files import quantization_of
from tests.conftest import save_tiny_llama
from tests.models.families import save_tiny
from tests.models.gguf_writing import save_tiny_gguf
from tests.router.toy_language import toy_tokenizer_json


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home with empty caches."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    hub = tmp_path / "hub"
    hub.mkdir()
    scan = functools.partial(huggingface_hub.scan_cache_dir, hub)
    monkeypatch.setattr(inventory.huggingface_hub, "scan_cache_dir", scan)
    return tmp_path / "home"


def with_tokenizer(folder: Path) -> Path:
    (folder / "tokenizer.json").write_bytes(toy_tokenizer_json())
    return folder


def test_list_shows_both_caches_and_why_a_model_is_not_supported(
    home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with_tokenizer(save_tiny_llama(home / ".cache" / "specgrove" / "ours", seed=0))
    repository = tmp_path / "hub" / "models--owner--theirs"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text("abc")
    (repository / "blobs").mkdir()
    snapshot = repository / "snapshots" / "abc"
    save_tiny("opt", snapshot)
    other = tmp_path / "hub" / "models--owner--bert" / "snapshots" / "def"
    shutil.copytree(tmp_path / "hub" / "models--owner--theirs", other.parent.parent)
    (other.parent / "abc").rename(other)
    (other.parent.parent / "refs" / "main").write_text("def")
    (other / "config.json").write_text('{"architectures": ["BertModel"], "model_type": "bert"}')
    assert main(["models", "list"]) == 0
    header, *lines = capsys.readouterr().out.splitlines()
    assert header.split() == ["MODEL", "FAMILY", "PARAMETERS", "ON", "DISK", "SUPPORTED"]
    assert [line.split()[:2] for line in lines] == [
        ["~/.cache/specgrove/ours", "llama"],
        ["owner/bert", "bert"],
        ["owner/theirs", "opt"],
    ]
    assert lines[0].endswith("yes")
    assert "no: " in lines[1]
    assert "BertModel" in lines[1]
    assert "no tokenizer.json" in lines[2]


def test_info_tells_what_a_model_is(home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = with_tokenizer(save_tiny_llama(tmp_path / "tiny", seed=0))
    assert main(["models", "info", str(folder)]) == 0
    shown = dict(line.split(":", 1) for line in capsys.readouterr().out.splitlines())
    assert shown["parameters"].strip() == "0.1M, of these 0.0M in the embedding and 0.0M in the head"
    assert shown["architecture"].strip() == "LlamaForCausalLM"
    assert shown["heads"].strip() == "6, 2 of keys and values"
    assert shown["context"].strip() == "256 tokens"
    assert shown["dtype"].strip() == "float32"
    assert shown["quantisation"].strip() == "none"
    assert shown["supported"].strip() == "yes"
    assert main(["models", "info", str(folder), "--json"]) == 0
    described = json.loads(capsys.readouterr().out)
    assert (described["num_layers"], described["num_heads"], described["num_kv_heads"]) == (3, 6, 2)
    assert described["num_bytes"] == (folder / "model.safetensors").stat().st_size
    assert described["problem"] is None
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"quantization_config": {"quant_method": "hqq"}}))
    assert main(["models", "info", str(folder), "--json"]) == 1
    assert "quantised by hqq" in json.loads(capsys.readouterr().out)["problem"]


def test_info_of_packed_weights_names_their_bits(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = with_tokenizer(save_tiny_llama(tmp_path / "tiny", seed=0))
    # In a model so small the embedding, which is not quantised, is the most of it.
    packed = replace(inventory.describe(folder), dtype="uint8", quantization="specgrove, 4 bits")
    monkeypatch.setattr(inventory, "describe", lambda folder: packed)
    assert main(["models", "info", str(folder)]) == 0
    shown = dict(line.split(":", 1) for line in capsys.readouterr().out.splitlines())
    assert shown["dtype"].strip() == "specgrove, 4 bits, packed in uint8"


def test_info_of_gguf_names_type_and_quantisation(
    home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save_tiny_gguf(tmp_path / "tiny.gguf", "Q4_0")
    assert main(["models", "info", str(tmp_path / "tiny.gguf"), "--json"]) == 0
    described = json.loads(capsys.readouterr().out)
    assert (described["dtype"], described["quantization"], described["num_layers"]) == ("Q4_0", "gguf, 4 bits", 2)
    assert described["num_bytes"] == (tmp_path / "tiny.gguf").stat().st_size


@pytest.mark.parametrize("family", ["qwen2", "gemma3"])
def test_info_of_super_blocks_and_parts_is_the_truth(
    family: str, home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save_tiny_gguf(tmp_path / "tiny.gguf", "Q4_K", family=family, split_max_tensors=10)
    parts = sorted(tmp_path.glob("*.gguf"))
    for model in (parts[0], tmp_path):
        assert main(["models", "info", str(model), "--json"]) == 0
        described = json.loads(capsys.readouterr().out)
        assert (described["dtype"], described["quantization"]) == ("Q4_K", "gguf, Q4_K, dequantised when it is loaded")
        assert described["num_bytes"] == sum(part.stat().st_size for part in parts)
    parts[-1].unlink()
    for model in (parts[0], parts[-1], tmp_path):
        assert main(["models", "info", str(model), "--json"]) == 1
        assert f"{parts[-1].name} is not beside it: fetch all parts" in capsys.readouterr().err
        assert main(["models", "convert", str(model), "--out", str(tmp_path / "out")]) == 1
        assert f"{parts[-1].name} is not beside it: fetch all parts" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_info_and_conversion_of_a_model_with_a_hole_name_it(
    home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save_tiny_gguf(tmp_path / "tiny.gguf", "Q6_K", family="qwen3", without=("blk.1.attn_k_norm.weight",))
    for command in (["info"], ["convert", "--out", str(tmp_path / "out")]):
        assert main(["models", *command, str(tmp_path / "tiny.gguf")]) == 1
        assert "lacks blk.1.attn_k_norm.weight: is it a whole model?" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_head_is_counted_where_it_is_one_of_its_own(
    home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = with_tokenizer(save_tiny_llama(tmp_path / "tiny", seed=0))
    assert main(["models", "info", str(folder), "--json"]) == 0
    own = json.loads(capsys.readouterr().out)
    assert own["num_head_parameters"] == own["num_embedding_parameters"] > 0
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"tie_word_embeddings": True}))
    main(["models", "info", str(folder), "--json"])
    tied = json.loads(capsys.readouterr().out)
    assert tied["num_head_parameters"] == 0
    assert tied["num_parameters"] == own["num_parameters"] - own["num_head_parameters"]
    main(["models", "info", str(folder)])
    assert "in the embedding, which is the head too\n" in capsys.readouterr().out


def test_the_list_for_machines(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = save_tiny_llama(home / ".cache" / "specgrove" / "tiny", seed=0)
    assert main(["models", "list", "--json", "--cache-dir", str(folder.parent)]) == 0
    (model,) = json.loads(capsys.readouterr().out)
    assert (model["name"], model["family"], model["folder"]) == ("tiny", "llama", str(folder))
    assert "tokenizer.json" in model["problem"]


def test_an_empty_cache_says_how_to_fill_it(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models", "list", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == []
    assert main(["models", "list"]) == 0
    shown = capsys.readouterr()
    assert shown.out == ""
    assert "specgrove models download" in shown.err


def test_download_takes_the_model_and_its_place_from_a_suites_file(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("specgrove.cli.models.model_folder", lambda model, _, cache_dir: cache_dir / model)
    config = tmp_path / "suite.yaml"
    config.write_text("cache-dir: /all\nrouter:\n  max-requests: 8\nllm:\n  model: owner/name\n  cache-dir: /llms\n")
    assert main(["models", "download", "--config", str(config)]) == 0
    assert main(["models", "download", "--config", str(config), "--cache-dir", "/other"]) == 0
    assert main(["models", "download", "third/one"]) == 0
    assert capsys.readouterr().out.split() == [
        "/llms/owner/name",
        "/other/owner/name",
        f"{home}/.cache/specgrove/third/one",
    ]
    config.write_text("llm:\n  mode: tiny\n")
    assert main(["models", "download", "--config", str(config)]) == 1
    assert "suite.yaml:2: there is no setting llm.mode" in capsys.readouterr().err


def test_info_of_what_is_not_there_is_one_line(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models", "info", "/no/such/folder"]) == 1
    assert "specgrove: error: /no/such/folder is not there, nor is the folder /no/such" in capsys.readouterr().err
    assert main(["models", "info", "smollm2-135m-instruct"]) == 1
    assert "is not made yet" in capsys.readouterr().err


def test_info_knows_the_ssms_that_come_with_us(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models", "info", "demo"]) == 0
    assert "smollm2-135m-drafter\n" in capsys.readouterr().out
    assert main(["models", "info", "lookup"]) == 1
    assert "lookup is an SSM without weights" in capsys.readouterr().err


def test_quantize_writes_a_folder_that_is_known_for_what_it_is(
    home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = with_tokenizer(save_tiny_llama(tmp_path / "tiny", seed=0))
    target = tmp_path / "int4"
    assert main(["quantize", str(folder), "--bits", "4", "--group-size", "16", "--out", str(target)]) == 0
    captured = capsys.readouterr()
    assert captured.out == f"{target}\n"
    layers = [line for line in captured.err.splitlines() if "layer" in line]
    assert layers == ["quantising to 4 bits: layer 1 of 3"]  # a line a layer says no more
    assert main(["models", "info", str(target), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["quantization"] == "specgrove, 4 bits"
    assert main(["quantize", str(target), "--bits", "8", "--out", str(tmp_path / "int8")]) == 1
    assert "quantised already" in capsys.readouterr().err


def test_convert_prints_the_folder(home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save_tiny_gguf(tmp_path / "tiny.gguf", "Q8_0")
    target = tmp_path / "out"
    assert main(["models", "convert", str(tmp_path / "tiny.gguf"), "--out", str(target), "--dtype", "float16"]) == 0
    assert capsys.readouterr().out == f"{target}\n"
    assert main(["models", "info", str(target), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["dtype"] == "float16"


def test_the_llm_service_quantises_once(tmp_path: Path) -> None:
    folder = with_tokenizer(save_tiny_llama(tmp_path / "tiny", seed=0))
    arguments = [
        "--model",
        str(folder),
        "--cache-dir",
        str(tmp_path / "cache"),
        "--kv-slots",
        "64",
        "--threads",
        "1",
        "--device",
        "cpu",
    ]
    config = parse_arguments([*arguments, "--quantization", "int8"])
    served, runner = load_runner(config)
    assert served.parent == tmp_path / "cache" / "quantized"
    assert quantization_of(served) == "specgrove, 8 bits"
    assert runner.num_slots == 64
    assert load_runner(config)[0] == served
    plain, quantised = (
        plan(parse_arguments([*arguments, "--dtype", "float32"]), place, None, torch.device("cpu"), has_kernels=False)
        for place in (folder, served)
    )
    assert (plain.quantization, quantised.quantization) == (None, "int8")

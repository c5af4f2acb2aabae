"""Loading SSMs: what tells which LLM they draft for."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from specgrove.models.planning.ssm_fitting import SsmDemand
from specgrove.settings.ssm_specs import parse_ssms
from ssm_service.config import PoolConfig, SsmServiceConfig
from ssm_service.loading import load_ssm, read_draft_vocab, read_vocabulary
from ssm_service.neural import NeuralSsm
from tests.models.gguf_writing import save_tiny_gguf
from tests.router.toy_language import VOCAB_SIZE, toy_tokenizer_json


@pytest.fixture
def folder(tiny_llama: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_llama, tmp_path / "tiny"))


def _load(folder: Path, model: Path | None = None, options: str = "") -> object:
    (spec,) = parse_ssms([f"{model or folder},name=tiny{options}"])
    config = SsmServiceConfig(
        address="127.0.0.1:0", ssms=(spec,), demand=SsmDemand("float32", "cpu", "off", 64), cache_dir=folder,
        num_threads=1, session_ttl_s=PoolConfig().session_ttl_s, pass_timeout_s=120.0, drain_timeout_s=0.0, log_level="INFO",
        log_format="text",
    )  # fmt: skip
    return load_ssm(spec, config, torch.device("cpu"))


@pytest.mark.parametrize("options", ["", ",quantization=int8", ",quantization=int4,mode=expansion"])
def test_a_gguf_file_is_an_ssm(options: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    save_tiny_gguf(tmp_path / "tiny.gguf", "Q4_K", family="qwen2")
    ssm = _load(tmp_path / "cache", tmp_path / "tiny.gguf", options)
    assert isinstance(ssm, NeuralSsm)
    assert ssm.spec.architecture == "Qwen2ForCausalLM"
    made = f"re-quantised to {options[17]} bits" if options else "dequantised to float32"
    assert any("tiny: weights: Q4_K" in line and made in line for line in caplog.messages)


def test_an_ssm_that_does_not_tell_its_llm_is_asked_for_a_tokenizer(folder: Path) -> None:
    with pytest.raises(ValueError, match=r"tiny has no tokenizer\.json.*put the tokenizer\.json there"):
        _load(folder)


def test_a_tokenizer_tells(folder: Path) -> None:
    (folder / "tokenizer.json").write_bytes(toy_tokenizer_json())
    ssm = _load(folder)
    assert isinstance(ssm, NeuralSsm)
    assert len(ssm.vocabulary.sha256) == 64
    assert len(ssm.vocabulary.token_checksums) == 4 * VOCAB_SIZE


def test_a_trained_ssm_tells_by_its_configuration(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"specgrove": {"vocab_sha256": "5" * 64}}))
    vocabulary = read_vocabulary(folder)
    assert (vocabulary.sha256, vocabulary.token_checksums) == ("5" * 64, b"")


@pytest.mark.parametrize(
    ("ids", "told"),
    [
        (torch.arange(VOCAB_SIZE).float(), "is int32"),
        (torch.arange(VOCAB_SIZE, dtype=torch.int32)[None], "is int32"),
        (torch.full((VOCAB_SIZE,), 7, dtype=torch.int32), "once at most"),
    ],
)
def test_a_map_that_is_none_is_told_with_its_file(ids: torch.Tensor, told: str, folder: Path) -> None:
    save_file({"draft_token_ids": ids}, folder / "model.safetensors")
    with pytest.raises(ValueError, match=rf"model\.safetensors: draft_token_ids: .*{told}"):
        read_draft_vocab(folder)

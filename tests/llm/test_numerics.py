"""Models with other bits are told apart."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from llm_service import numerics
from llm_service.arguments import parse_arguments
from llm_service.numerics import model_digest, numerics_of


def test_the_digest_is_of_weights_and_configuration(tmp_path: Path) -> None:
    weights, config = tmp_path / "model.safetensors", tmp_path / "config.json"
    weights.write_bytes(bytes(1_000_000))
    config.write_text("{}")
    seen = {model_digest(tmp_path)}
    (tmp_path / "README.md").write_text("no part of it")
    assert model_digest(tmp_path) in seen
    for change in (
        lambda: weights.write_bytes(bytes(1_000_001)),
        lambda: weights.write_bytes(b"\1" + bytes(999_999)),
        lambda: weights.write_bytes(bytes(999_999) + b"\1"),
        lambda: weights.write_bytes(bytes(500_000) + bytes([1]) * 100 + bytes(499_900)),
        lambda: config.write_text('{"rope_theta": 1}'),
    ):
        change()
        assert model_digest(tmp_path) not in seen
        seen.add(model_digest(tmp_path))


def test_files_that_are_not_read_are_no_part_of_it(tmp_path: Path) -> None:
    """One replica was fetched with Mistral's second copy of the weights, which git left in place of a file or not at all."""
    (tmp_path / "model.safetensors").write_bytes(bytes(1000))
    (tmp_path / "config.json").write_text("{}")
    digest = model_digest(tmp_path)
    (tmp_path / "consolidated.safetensors").symlink_to(tmp_path / "never fetched")
    assert model_digest(tmp_path) == digest
    (tmp_path / "old.gguf").write_bytes(b"GGUF")
    assert model_digest(tmp_path) == digest


def test_shards_are_weights_each(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    for number in range(3):
        (tmp_path / f"model-{number}.safetensors").write_bytes(bytes([number]) * 100)
    digest = model_digest(tmp_path)
    (tmp_path / "model-2.safetensors").write_bytes(bytes([3]) * 100)
    assert model_digest(tmp_path) != digest


@pytest.mark.parametrize(("bits", "fact"), [(8, "int8"), (4, "int4"), (None, "none")])
def test_quantisation_is_told_as_the_weights_are(bits: int | None, fact: str, tmp_path: Path) -> None:
    """Whoever quantised them, and whatever the option says."""
    config = {} if bits is None else {"quantization_config": {"quant_method": "specgrove", "bits": bits}}
    (tmp_path / "model.safetensors").write_bytes(bytes(1000))
    (tmp_path / "config.json").write_text(json.dumps(config))
    decoder = SimpleNamespace(device=torch.device("cpu"), executable=object())
    for arguments in ([], ["--quantization", "int8"]):
        assert f"quantization {fact}" in numerics_of(parse_arguments(arguments), tmp_path, decoder)


class OtherProgram:
    """Kernels of another kind."""


@pytest.mark.parametrize(
    ("arguments", "changed"),
    [
        (["--dtype", "float32"], "dtype float32"),
        (["--tensor-parallel", "2"], "layout 2 x 1"),
        (["--threads", "3", "--kv-slots", "7", "--max-model-len", "9", "--device", "cpu"], None),
    ],
)
def test_what_decides_bits_is_told_fact_by_fact(
    arguments: Sequence[str], changed: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "model.safetensors").write_bytes(bytes(1000))
    (tmp_path / "config.json").write_text("{}")
    decoder = SimpleNamespace(device=torch.device("cpu"), executable=object())
    usual = numerics_of(parse_arguments([]), tmp_path, decoder)
    found = numerics_of(parse_arguments(arguments), tmp_path, decoder)
    assert set(found) - set(usual) == ({changed} if changed else set())
    assert len(set(found) & set(usual)) == len(usual) - (changed is not None)
    for change, fact in (
        (lambda: setattr(decoder, "executable", OtherProgram()), "kernels OtherProgram"),
        (lambda: monkeypatch.setattr(numerics, "get_isa", lambda: "sse9"), "cpu sse9"),
        (lambda: monkeypatch.setattr(numerics, "ARITHMETIC", 99), "arithmetic 99"),
        (lambda: monkeypatch.setattr(numerics, "ENGINE", "guesses 1.0"), "structures by guesses 1.0"),
        (lambda: monkeypatch.setattr(numerics, "version", lambda: "9.9"), "version 9.9"),
    ):
        before = set(found)
        change()
        found = numerics_of(parse_arguments(arguments), tmp_path, decoder)
        assert set(found) - before == {fact}


def test_on_a_gpu_its_name_and_torchs_version_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not all that runs there are kernels of our own."""
    (tmp_path / "model.safetensors").write_bytes(bytes(1000))
    (tmp_path / "config.json").write_text("{}")
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: f"card {device.index}")
    decoder = SimpleNamespace(device=torch.device("cuda", 1), executable=object())
    facts = numerics_of(parse_arguments([]), tmp_path, decoder)
    assert f"gpu card 1, torch {torch.__version__}" in facts

"""Models with other bits are told apart."""

from __future__ import annotations

from pathlib import Path

from llm_service.numerics import model_digest


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

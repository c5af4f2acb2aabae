"""Models with other bits are told apart."""

from __future__ import annotations

from pathlib import Path

from llm_service.numerics import weights_digest


def test_the_digest_is_of_weights_and_configuration(tmp_path: Path) -> None:
    weights, config = tmp_path / "model.safetensors", tmp_path / "config.json"
    weights.write_bytes(bytes(1_000_000))
    config.write_text("{}")
    seen = {weights_digest(tmp_path)}
    (tmp_path / "README.md").write_text("no part of it")
    assert weights_digest(tmp_path) in seen
    for change in (
        lambda: weights.write_bytes(bytes(1_000_001)),
        lambda: weights.write_bytes(b"\1" + bytes(999_999)),
        lambda: weights.write_bytes(bytes(999_999) + b"\1"),
        lambda: weights.write_bytes(bytes(500_000) + bytes([1]) * 100 + bytes(499_900)),
        lambda: config.write_text('{"rope_theta": 1}'),
    ):
        change()
        assert weights_digest(tmp_path) not in seen
        seen.add(weights_digest(tmp_path))

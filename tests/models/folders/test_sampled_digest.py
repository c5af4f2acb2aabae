"""Files told apart by samples of their bytes."""

from __future__ import annotations

from pathlib import Path

import pytest

from specgrove.models.folders import sampled_digest as module
from specgrove.models.folders.sampled_digest import sampled_digest

SIZE = 100_000


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """One that is far larger than what is read of it."""
    monkeypatch.setattr(module, "_BEGINNING_BYTES", 1000)
    monkeypatch.setattr(module, "_SAMPLE_BYTES", 100)
    path = tmp_path / "weights"
    path.write_bytes(bytes(SIZE))
    return path


@pytest.mark.parametrize("place", [0, 999, *(99_900 * index // 64 for index in (1, 5, 31, 40, 63)), SIZE - 1])
def test_what_is_sampled_counts(file: Path, place: int) -> None:
    before = sampled_digest(file)
    content = bytearray(SIZE)
    content[place] = 1
    file.write_bytes(content)
    assert sampled_digest(file) != before


def test_the_size_counts_and_the_name_does_not(file: Path) -> None:
    before = sampled_digest(file)
    assert sampled_digest(file.rename(file.with_name("other"))) == before
    file.with_name("longer").write_bytes(bytes(SIZE + 1))
    assert sampled_digest(file.with_name("longer")) != before

"""What is found of a machine, and how bad it is."""

from __future__ import annotations

import importlib.metadata
from pathlib import Path

import pytest

from specgrove.doctor import machine
from specgrove.doctor.findings import Level
from specgrove.settings import SuiteSettings

_GIB = 1 << 30


def test_a_processor_has_a_name_and_cpus() -> None:
    found = machine.processor()
    assert found.level is Level.OK
    assert found.facts["num_cpus"] >= 1
    assert f"{found.facts['num_cpus']} CPU" in found.text


def test_kernels_are_told_with_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "get_isa", lambda: "avx2")
    monkeypatch.setattr(machine, "amx_refusal", lambda: None)
    (found,) = machine.kernels()
    assert (found.level, found.facts) == (Level.OK, {"isa": "avx2"})
    assert found.text == "avx2: the processor has AVX2, but no AVX-512 with BF16 and VNNI"
    monkeypatch.setattr(machine, "get_isa", lambda: "plain")
    monkeypatch.setattr(machine, "amx_refusal", lambda: "the kernel is too old")
    slow, unused = machine.kernels()
    assert (slow.level, unused.level) == (Level.WARNING, Level.WARNING)
    assert "several times longer" in slow.text
    assert "AMX is not in use: the kernel is too old" in unused.text


def test_a_machine_without_a_gpu_is_well(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine.torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(machine, "may_have_gpu", lambda: False)
    (found,) = machine.gpus()
    assert (found.level, found.text) == (Level.OK, "none; models run on the CPU")
    monkeypatch.setattr(machine, "may_have_gpu", lambda: True)
    (found,) = machine.gpus()
    assert (found.level, "can't use it" in found.text) == (Level.WARNING, True)


def test_ranks_without_cpus_are_warned_of() -> None:
    assert not list(machine.threads(SuiteSettings()))
    (found,) = machine.threads(SuiteSettings({("llm", "tensor-parallel"): 1000, ("llm", "device"): "cpu"}))
    assert (found.level, found.text.startswith("1000 ranks on ")) == (Level.WARNING, True)


class FixedBandwidth:
    def __init__(self, num_threads: int) -> None: ...

    def measure(self) -> float:
        return 20.0


def test_memory_is_measured_where_there_is_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "ReadBandwidth", FixedBandwidth)
    monkeypatch.setattr(machine, "available_memory_bytes", lambda: 8 * _GIB)
    assert machine.memory(is_measured=True).text.startswith("8.00 GiB available, read at 20 GB/s")
    assert machine.memory(is_measured=False).text == "8.00 GiB available"
    monkeypatch.setattr(machine, "available_memory_bytes", lambda: 3 * _GIB // 2)
    assert machine.memory(is_measured=True).text == "1.50 GiB available"  # the buffer alone is a gigabyte
    monkeypatch.setattr(machine, "available_memory_bytes", lambda: _GIB // 2)
    assert machine.memory(is_measured=True).level is Level.WARNING


def test_a_package_that_is_missing_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    versions = importlib.metadata.version

    def without_tokenizers(name: str) -> str:
        if name == "tokenizers":
            raise importlib.metadata.PackageNotFoundError
        return versions(name)

    monkeypatch.setattr(importlib.metadata, "version", without_tokenizers)
    there, missing = machine.versions()
    assert "torch" in there.facts
    assert (missing.level, missing.facts) == (Level.ERROR, {"missing": ["tokenizers"]})


def test_a_cache_folder_that_can_not_be_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    found, temporary = machine.folders(tmp_path / "file" / "cache")
    assert (found.level, found.area) == (Level.ERROR, "cache folder")
    assert f"{tmp_path}/file is no folder" in found.text
    assert temporary.area == "temporary folder"
    fresh, _ = machine.folders(tmp_path / "cache")
    assert "made when it is needed" in fresh.text
    assert not (tmp_path / "cache").exists()

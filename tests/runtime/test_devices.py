"""Which ops and which runner a model gets, and what the log says where it isn't the kernels for GPUs."""

from __future__ import annotations

import logging
import weakref
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from specgrove.kernels import in_use
from specgrove.kernels.cuda.backend import KernelsMissingError
from specgrove.kernels.cuda.start_check import KernelsWrongError
from specgrove.kernels.device_memory import PassLimits
from specgrove.models.decoder.family import read_spec
from specgrove.models.decoder.spec import DecoderSpec
from specgrove.program.backend import KvCaches
from specgrove.program.decoder import Decoder
from specgrove.program.device_weights import DeviceWeights, StreamedWeights
from specgrove.program.graphs import NoGraphs
from specgrove.program.loading import load_decoder
from specgrove.runtime import devices, graph_runner
from specgrove.runtime.devices import choose_device, has_gpu_kernels, runner_for
from specgrove.runtime.graph_runner import GraphRunner, captured_whole
from specgrove.runtime.model_runner import ModelRunner, kv_caches
from tests.models.families import DEVICE_VARIANTS, save_tiny
from tests.models.test_device_weights import CopiesAtOnce

CPU, GPU = torch.device("cpu"), torch.device("cuda", 0)  # which the check is kept away from


@pytest.fixture(autouse=True)
def unchecked() -> Iterator[None]:
    devices._what_is_wrong.cache_clear()
    yield
    devices._what_is_wrong.cache_clear()


@pytest.fixture
def spec(tmp_path: Path) -> DecoderSpec:
    save_tiny("llama", tmp_path, DEVICE_VARIANTS)
    return read_spec(tmp_path)


def test_a_check_decides(spec: DecoderSpec, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(devices, "check_kernels_apart", lambda *_: None)
    with caplog.at_level(logging.WARNING):
        assert has_gpu_kernels("auto", spec, torch.bfloat16, GPU)
    assert not caplog.records

    def fails(*_: object) -> None:
        raise KernelsWrongError("the RMS norm differs from torch by 3")

    devices._what_is_wrong.cache_clear()
    monkeypatch.setattr(devices, "check_kernels_apart", fails)
    assert not has_gpu_kernels("auto", spec, torch.bfloat16, GPU)
    assert "ops of torch run instead" in caplog.text
    assert "the RMS norm differs" in caplog.text


@pytest.mark.parametrize(
    ("mode", "dtype", "head_dim", "reason"),
    [
        ("off", torch.bfloat16, 64, "--gpu-kernels off"),
        ("auto", torch.float32, 64, "not float32"),
        ("auto", torch.float16, 72, "not 72"),
    ],
)
def test_what_they_can_not_run_is_not_tried(
    mode: str, dtype: torch.dtype, head_dim: int, reason: str, spec: DecoderSpec, caplog: pytest.LogCaptureFixture
) -> None:
    assert not has_gpu_kernels(mode, replace(spec, head_dim=head_dim), dtype, GPU)
    assert reason in caplog.text


def test_nothing_else_where_they_are_required(spec: DecoderSpec, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "check_kernels_apart", lambda *_: None)
    assert has_gpu_kernels("require", spec, torch.bfloat16, GPU)
    with pytest.raises(ValueError, match="--gpu-kernels require: they take bfloat16 and float16, not float32"):
        has_gpu_kernels("require", spec, torch.float32, GPU)
    with pytest.raises(ValueError, match="the models run on the CPU; give --device cuda"):
        has_gpu_kernels("require", spec, torch.bfloat16, CPU)


def test_the_cpu_has_kernels_of_its_own(spec: DecoderSpec, caplog: pytest.LogCaptureFixture) -> None:
    assert not has_gpu_kernels("auto", spec, torch.bfloat16, CPU)
    assert not caplog.records
    assert choose_device("cpu", 0) == CPU


class BrokenGraphs(NoGraphs):
    """Fails as torch does: ending the capture hides what broke it."""

    def capture(self, run: Callable[[], None]) -> Callable[[], None]:
        run()
        try:
            raise RuntimeError("operation not permitted when stream is capturing\nand more")
        finally:
            raise RuntimeError("the capture has failed")


class FullGraphs(NoGraphs):
    def capture(self, run: Callable[[], None]) -> Callable[[], None]:
        raise torch.OutOfMemoryError("no room")


def test_what_can_not_be_captured_runs_all_the_same(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_tiny("llama", tmp_path, DEVICE_VARIANTS)
    decoder = load_decoder(tmp_path, torch.bfloat16, store=DeviceWeights(CPU, has_kernels=True))
    limits = PassLimits(4, 4, 16, 32)
    assert isinstance(runner_for(decoder, limits, "auto", lambda _: NoGraphs()), GraphRunner)
    caches: list[weakref.ref[torch.Tensor]] = []
    alive_at: list[bool] = []
    right = ModelRunner.__init__

    def init(self: ModelRunner, decoder: Decoder, num_slots: int) -> None:
        alive_at.append(any(cache() is not None for cache in caches))
        right(self, decoder, num_slots)

    def kept(decoder: Decoder, num_slots: int) -> KvCaches:
        made = kv_caches(decoder, num_slots)
        caches.extend(weakref.ref(cache) for cache in made.keys)
        return made

    monkeypatch.setattr(graph_runner, "kv_caches", kept)
    monkeypatch.setattr(ModelRunner, "__init__", init)
    assert isinstance(runner_for(decoder, limits, "auto", lambda _: BrokenGraphs()), ModelRunner)
    assert (
        "they can't be captured: the capture has failed <- operation not permitted when stream is capturing"
        in caplog.text
    )
    assert caches
    assert alive_at == [False], "there was no room for two"
    with pytest.raises(RuntimeError, match="the capture has failed"):
        runner_for(decoder, limits, "require", lambda _: BrokenGraphs())
    with pytest.raises(torch.OutOfMemoryError):
        runner_for(decoder, limits, "auto", lambda _: FullGraphs())


def test_offloaded_weights_are_not_captured(tmp_path: Path) -> None:
    save_tiny("llama", tmp_path, DEVICE_VARIANTS)
    limits = PassLimits(4, 4, 16, 32)
    for store, expected in (
        (DeviceWeights(CPU, has_kernels=True), True),
        (DeviceWeights(CPU), False),
        (StreamedWeights(CPU, 0, CopiesAtOnce(), has_kernels=True), False),
    ):
        decoder = load_decoder(tmp_path, torch.bfloat16, store=store)
        assert (captured_whole(decoder) is not None) == expected
        runner = runner_for(decoder, limits, "auto", lambda _: NoGraphs())
        assert isinstance(runner, GraphRunner if expected else ModelRunner)


def test_a_verdict_for_people(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(in_use, "check_kernels_apart", lambda *_: None)  # which has tests of its own
    assert in_use.gpu_verdict(CPU).startswith("the kernels for GPUs")

    def fails(*_: object) -> None:
        raise KernelsMissingError("no nvcc")

    monkeypatch.setattr(in_use, "check_kernels_apart", fails)
    assert in_use.gpu_verdict(CPU) == "ops composed from torch's own: no nvcc"

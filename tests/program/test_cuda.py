"""Programs on the kernels for GPUs: what is launched, parts of a model against the whole, and what is refused."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from specgrove.kernels.cuda import backend
from specgrove.kernels.rows import PassRows
from specgrove.models.decoder.family import read_spec
from specgrove.models.decoder.parallel_layout import ParallelLayout
from specgrove.models.decoder.sharding import Shard
from specgrove.program.device_weights import StreamedWeights
from specgrove.runtime.pass_builder import PassBuilder, TreeRows
from tests.models.families import DEVICE_VARIANTS, save_tiny
from tests.models.test_device_weights import CopiesAtOnce
from tests.program.cuda_programs import TakingTurns, cuda_program, on_kernels
from tests.program.programs import NUM_SLOTS, some_passes

CPU = torch.device("cpu")


def tree() -> PassRows:
    """Four nodes without a context."""
    builder = PassBuilder()
    builder.add([], (), TreeRows([7, 8, 9, 10], [-1, 0, 0, 2], [30, 31, 29, 40]))
    return builder.build()


class Counted:
    """The emulator, whose launches are counted."""

    def __init__(self, module: Any, counts: Counter[str]) -> None:
        self._module, self._counts = module, counts

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._module, name)
        if not callable(found) or isinstance(found, type):
            return found

        def call(*arguments: Any, **named: Any) -> Any:
            kernel = arguments[0].removeprefix("Add") if name == "launch" else name
            self._counts[kernel] += name == "launch" or "stream" in named
            return found(*arguments, **named)

        return call


@pytest.mark.parametrize(
    ("variant", "of_layer", "others"),
    [
        ("llama", "norm qkv rotate attend out norm up activate down", "embed norm vocab"),
        ("opt", "norm qkv rotate attend out norm up activate down", "embed norm vocab"),
        ("falcon-7b", "norm qkv rotate attend out up activate down", "embed norm vocab"),
        (
            "gemma3",
            "norm qkv head_norm head_norm rotate attend out norm norm up activate down norm",
            "embed norm vocab",
        ),
    ],
)
def test_what_is_launched(
    variant: str, of_layer: str, others: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One kernel for a sum with the norm after it, for the norm of asked rows, and for an embedding with learned positions."""
    save_tiny(variant, tmp_path, DEVICE_VARIANTS)
    loaded, counts = on_kernels(tmp_path, CPU), Counter[str]()
    real = backend._module
    monkeypatch.setattr(backend, "_module", lambda device_type: Counted(real(device_type), counts))
    loaded.run(tree())
    kernels = {
        "norm": "Norm", "head_norm": "HeadNorm", "rotate": "RotateStore", "activate": "Activate", "embed": "Embed",
        "attend": "tree_attention",
        **dict.fromkeys(("qkv", "out", "up", "down", "vocab"), "small_linear"),
    }  # fmt: skip
    expected = Counter(
        kernels.get(name, name) for name in of_layer.split() * loaded.program.num_layers + others.split()
    )
    assert +counts == expected


@pytest.mark.parametrize("variant", ["llama", "opt-350m", "falcon-7b", "gemma3"])
def test_hidden_states_go_from_stage_to_stage(variant: str, device: torch.device, tmp_path: Path) -> None:
    """As those are that a whole model hands out before a layer; to hand them out changes no bit."""
    save_tiny(variant, tmp_path, DEVICE_VARIANTS)
    spec = read_spec(tmp_path)
    whole, telling = (on_kernels(tmp_path, device, keep_hidden=kept) for kept in ((), (1, spec.num_layers)))
    first = on_kernels(tmp_path, device, Shard(0, 1, 0, 1, is_last_stage=False))
    second = on_kernels(tmp_path, device, Shard(0, 1, 1, spec.num_layers, is_first_stage=False))
    for rows in some_passes():
        expected, told, before = whole.run(rows).logits, telling.run(rows), first.run(rows)
        assert expected.device.type == "cpu"
        assert expected.shape == (len(rows.asked_rows), spec.vocab_size)
        assert torch.equal(told.logits, expected)
        assert [states.shape for states in told.hidden] == [(rows.num_rows, spec.hidden_size)] * 2
        assert torch.equal(before.hidden[0], told.hidden[0])
        assert not torch.equal(told.hidden[0], told.hidden[1])
        assert torch.equal(second.run(rows, before.hidden[0]).logits, expected)


def test_hidden_states_that_are_missing_or_of_other_rows(tmp_path: Path) -> None:
    save_tiny("llama", tmp_path, DEVICE_VARIANTS)
    stage = on_kernels(tmp_path, CPU, Shard(0, 1, 1, 2, is_first_stage=False))
    with pytest.raises(ValueError, match="takes hidden states from outside"):
        stage.run(tree())
    width = stage.program.input_width
    assert width is not None
    with pytest.raises(ValueError, match="hidden must have the shape"):
        stage.run(tree(), torch.zeros(1, width))
    assert not any(cache.any() for cache in stage.caches.keys)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda rows: rows.token_ids.__setitem__(0, 97), "token_ids must be from 0 to 96"),
        (lambda rows: rows.token_ids.__setitem__(0, -1), "token_ids must be from 0 to 96"),
        (lambda rows: rows.positions.__setitem__(1, 64), "positions must be from 0 to 63"),
        (lambda rows: rows.slots.__setitem__(1, NUM_SLOTS), "slots must be from 0 to 63"),
        (lambda rows: rows.tree_slots.__setitem__(0, -2), "tree_slots must be from 0 to 63"),
        (lambda rows: rows.asked_rows.__setitem__(0, 9), "asked_rows must be from 0 to 3"),
    ],
)
def test_what_is_not_there_is_refused_before_anything_is_written(
    change: Callable[[PassRows], None], message: str, tmp_path: Path
) -> None:
    save_tiny("llama", tmp_path, DEVICE_VARIANTS)
    loaded, rows = on_kernels(tmp_path, CPU), tree()
    change(rows)
    with pytest.raises(ValueError, match=message):
        loaded.run(rows)
    assert not any(cache.any() for cache in (*loaded.caches.keys, *loaded.caches.values))


def test_what_can_be_captured(tmp_path: Path) -> None:
    save_tiny("llama", tmp_path, DEVICE_VARIANTS)
    shard = ParallelLayout(tensor_size=2).shard_of(0, read_spec(tmp_path))
    assert cuda_program(on_kernels(tmp_path, CPU)).can_be_captured
    for on_device in (False, True):
        rank = on_kernels(tmp_path, CPU, shard, TakingTurns(0, can_be_captured=on_device))
        assert cuda_program(rank).can_be_captured == on_device
    streamed = StreamedWeights(CPU, 0, CopiesAtOnce(), has_kernels=True)
    assert not cuda_program(on_kernels(tmp_path, CPU, store=streamed)).can_be_captured


def test_models_that_the_kernels_can_not_run(tmp_path: Path) -> None:
    save_tiny("llama", tmp_path)
    with pytest.raises(ValueError, match="heads of size 64, 80, 96, 128, 256, not 8"):
        on_kernels(tmp_path, CPU)

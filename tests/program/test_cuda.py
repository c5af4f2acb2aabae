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
from tests.program.cuda_programs import NUM_SLOTS, TakingTurns, caches_of, cuda_program, of_both, outputs

CPU = torch.device("cpu")
TOKEN_IDS = [5, 1, 44, 90, 3]


def chunk(start: int, num_tokens: int, *, asked: bool) -> PassRows:
    """Of one sequence in the slots from 0 on."""
    builder = PassBuilder()
    end = start + num_tokens
    builder.add(list(range(end)), TOKEN_IDS[start:end], chunk_logits=asked)
    return builder.build()


def tree(num_context: int) -> PassRows:
    """After the same sequence."""
    builder = PassBuilder()
    nodes = TreeRows([7, 8, 9, 10], [-1, 0, 0, 2], [30, 31, 29, 40])
    builder.add(list(range(num_context)), (), nodes)
    return builder.build()


PASSES = [chunk(0, 3, asked=False), chunk(3, 2, asked=True), tree(5)]


class Counted:
    """The emulator, whose launches are counted."""

    def __init__(self, module: Any, counts: Counter[str]) -> None:
        self._module, self._counts = module, counts

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._module, name)
        if not callable(found) or isinstance(found, type):
            return found

        def call(*arguments: Any, **named: Any) -> Any:
            self._counts[name] += "stream" in named
            return found(*arguments, **named)

        return call


@pytest.mark.parametrize(
    ("variant", "of_layer", "others"),
    [
        ("llama", "rms_norm qkv rotate attend out rms_norm up activate down", "embed rms_norm vocab"),
        ("opt", "layer_norm qkv rotate attend out layer_norm up activate down", "embed layer_norm vocab"),
        ("falcon-7b", "layer_norm qkv rotate attend out up activate down", "embed layer_norm vocab"),
        (
            "gemma3",
            "rms_norm qkv head_norm head_norm rotate attend out rms_norm rms_norm up activate down rms_norm",
            "embed rms_norm vocab",
        ),
    ],
)
def test_what_is_launched(
    variant: str, of_layer: str, others: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One kernel for a sum with the norm after it, for the norm of asked rows, and for an embedding with learned positions."""
    save_tiny(variant, tmp_path, DEVICE_VARIANTS)
    made, counts = cuda_program(tmp_path, CPU), Counter[str]()
    real = backend._module
    monkeypatch.setattr(backend, "_module", lambda device_type: Counted(real(device_type), counts))
    made.run(tree(0), caches_of(made))
    kernels = {
        "rotate": "rotate_and_store", "attend": "tree_attention", "head_norm": "head_rms_norm",
        **dict.fromkeys(("qkv", "out", "up", "down", "vocab"), "small_linear"),
    }  # fmt: skip
    expected = Counter(kernels.get(name, name) for name in of_layer.split() * made.program.num_layers + others.split())
    assert +counts == expected


@pytest.mark.parametrize("variant", ["llama", "opt-350m", "falcon-7b", "gemma3"])
def test_hidden_states_go_from_stage_to_stage(variant: str, device: torch.device, tmp_path: Path) -> None:
    """As those are that a whole model hands out before a layer; to hand them out changes no bit."""
    save_tiny(variant, tmp_path, DEVICE_VARIANTS)
    num_layers = read_spec(tmp_path).num_layers
    whole = outputs(cuda_program(tmp_path, device), PASSES)
    told = outputs(cuda_program(tmp_path, device, keep_hidden=[1, num_layers]), PASSES)
    stages = [Shard(0, 1, 0, 1, is_last_stage=False), Shard(0, 1, 1, num_layers, is_first_stage=False)]
    first = outputs(cuda_program(tmp_path, device, stages[0]), PASSES)
    second = outputs(cuda_program(tmp_path, device, stages[1]), PASSES, [out.hidden[0] for out in first])
    for rows, expected, other, before, after in zip(PASSES, whole, told, first, second, strict=True):
        assert torch.equal(expected.logits, other.logits)
        assert torch.equal(expected.logits, after.logits)
        assert [states.shape for states in other.hidden] == [(rows.num_rows, read_spec(tmp_path).hidden_size)] * 2
        assert torch.equal(before.hidden[0], other.hidden[0])
        assert not torch.equal(other.hidden[0], other.hidden[1])
        assert before.logits.numel() == 0
        assert after.hidden == ()


def test_what_a_pass_asks_comes_out(device: torch.device, tmp_path: Path) -> None:
    save_tiny("llama", tmp_path, DEVICE_VARIANTS)
    found = [output.logits for output in outputs(cuda_program(tmp_path, device), PASSES)]
    assert [logits.shape[0] for logits in found] == [0, 1, 4]
    assert all(logits.device.type == "cpu" and logits.shape[1] == 97 for logits in found)
    alone = outputs(cuda_program(tmp_path, device), [chunk(0, 5, asked=True)])[0].logits
    assert torch.equal(found[1], alone)


def test_hidden_states_that_are_missing(tmp_path: Path) -> None:
    save_tiny("llama", tmp_path, DEVICE_VARIANTS)
    made = cuda_program(tmp_path, CPU, Shard(0, 1, 1, 2, is_first_stage=False))
    with pytest.raises(ValueError, match="takes hidden states from outside"):
        outputs(made, PASSES)


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
    made, rows = cuda_program(tmp_path, CPU), tree(0)
    caches = caches_of(made)
    change(rows)
    with pytest.raises(ValueError, match=message):
        made.run(rows, caches)
    assert not any(cache.any() for cache in (*caches.keys, *caches.values))


@pytest.mark.parametrize("variant", ["llama", "opt-350m"])
def test_ranks_have_the_logits_of_the_whole(variant: str, tmp_path: Path) -> None:
    save_tiny(variant, tmp_path, DEVICE_VARIANTS)
    layout, spec, groups = ParallelLayout(tensor_size=2), read_spec(tmp_path), TakingTurns.pair()
    ranks = [cuda_program(tmp_path, CPU, layout.shard_of(group.rank, spec), group) for group in groups]
    first, second = of_both(groups, lambda rank: outputs(ranks[rank], PASSES))
    for one, other, whole in zip(first, second, outputs(cuda_program(tmp_path, CPU), PASSES), strict=True):
        assert torch.equal(one.logits, other.logits)
        torch.testing.assert_close(one.logits, whole.logits, atol=0.1, rtol=0.05)


def test_what_can_be_captured(tmp_path: Path) -> None:
    save_tiny("llama", tmp_path, DEVICE_VARIANTS)
    shard = ParallelLayout(tensor_size=2).shard_of(0, read_spec(tmp_path))
    assert cuda_program(tmp_path, CPU).can_be_captured
    for on_device in (False, True):
        group = TakingTurns(0, can_be_captured=on_device)
        assert cuda_program(tmp_path, CPU, shard, group).can_be_captured == on_device
    streamed = StreamedWeights(CPU, 0, CopiesAtOnce(), has_kernels=True)
    assert not cuda_program(tmp_path, CPU, store=streamed).can_be_captured


def test_models_that_the_kernels_can_not_run(tmp_path: Path) -> None:
    save_tiny("llama", tmp_path)
    with pytest.raises(ValueError, match="heads of size 64, 80, 96, 128, 256, not 8"):
        cuda_program(tmp_path, CPU)

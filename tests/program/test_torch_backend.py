"""The reference of all backends, torch in float64, against transformers; and torch in float32 as it is served."""

from __future__ import annotations

from array import array
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from specgrove.models.decoder.family import read_spec
from specgrove.models.decoder.sharding import Shard
from specgrove.program.backend import KvCaches
from specgrove.program.op import Op
from specgrove.program.ops import Embed
from specgrove.program.output_ops import KeepHidden, TakeRows
from specgrove.program.tensor_group import OneRank
from specgrove.program.torch_backend import TorchProgram, TorchWeights
from tests.models.families import VARIANTS, save_tiny
from tests.program.programs import PROMPT, Loaded, in_float64, prompt_rows, some_passes
from tests.program.tiny import HIDDEN, VOCAB_SIZE, chain, program

CPU = torch.device("cpu")

# Where transformers computes a part of a float64 model in float32: RMS norms, ALiBi.
ROUNDED = 2e-5
EXACT = 1e-12


def tolerance(variant: str) -> float:
    return EXACT if variant.startswith(("opt", "falcon", "gpt-bigcode")) else ROUNDED


@pytest.mark.parametrize("variant", VARIANTS)
def test_logits_and_hidden_states_are_transformers_in_float64(variant: str, tmp_path: Path) -> None:
    """Of every row, after every layer."""
    model = save_tiny(variant, tmp_path).double()
    num_layers = read_spec(tmp_path).num_layers
    loaded = Loaded.of(tmp_path, torch.float64, in_float64(), keep_hidden=range(num_layers))
    with torch.inference_mode():
        expected = model(torch.tensor([PROMPT]), output_hidden_states=True)
    found = loaded.run(prompt_rows())
    assert found.choices == ()
    assert found.logits.dtype is torch.float64
    assert (found.logits - expected.logits[0]).abs().max() <= tolerance(variant)
    assert len(found.hidden) == num_layers
    for hidden, states in zip(found.hidden, expected.hidden_states[:num_layers], strict=True):
        assert (hidden - states[0]).abs().max() <= tolerance(variant)


@pytest.mark.parametrize("variant", ["llama", "opt-350m", "falcon-40b", "gemma3"])
def test_rows_that_nobody_asks_for_may_go_early(variant: str, tmp_path: Path) -> None:
    class Early(TorchWeights):
        takes_rows_early = True

    save_tiny(variant, tmp_path)
    late = Loaded.of(tmp_path, torch.float32, TorchWeights(torch.device("cpu")))
    early = Loaded.of(tmp_path, torch.float32, Early(torch.device("cpu")))
    for rows in some_passes():
        assert torch.equal(early.run(rows).logits, late.run(rows).logits)
    for ours, theirs in zip(
        early.caches.keys + early.caches.values, late.caches.keys + late.caches.values, strict=True
    ):
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize("variant", ["llama", "opt-350m", "mpt"])
def test_stages_hand_on_hidden_states(variant: str, tmp_path: Path) -> None:
    save_tiny(variant, tmp_path)
    num_layers = read_spec(tmp_path).num_layers
    shards = (None, Shard(0, 1, 0, 1, is_last_stage=False), Shard(0, 1, 1, num_layers, is_first_stage=False))
    whole, first, second = (Loaded.of(tmp_path, torch.float64, in_float64(), shard) for shard in shards)
    for rows in some_passes():
        (hidden,) = first.run(rows).hidden
        before = hidden.clone()
        assert torch.equal(second.run(rows, hidden).logits, whole.run(rows).logits)
        assert torch.equal(hidden, before)  # the caller's own
    with pytest.raises(ValueError, match="takes hidden states from outside"):
        second.run(rows)


class CountingGroup(OneRank):
    """A rank that counts what it does with others."""

    def __init__(self) -> None:
        self.num_sums = self.num_heads = 0

    def sum(self, part: torch.Tensor) -> torch.Tensor:
        self.num_sums += 1
        return part

    def concatenated(self, part: torch.Tensor, widths: tuple[int, ...]) -> torch.Tensor:
        self.num_heads += 1
        return part


def test_a_pass_that_asks_nothing_ends_where_rows_are_taken(tmp_path: Path) -> None:
    """All ranks at the same op, so that none waits for another; weights come in by turns all the same."""

    class Streamed(TorchWeights):
        is_streamed = takes_rows_early = True

        def __init__(self) -> None:
            super().__init__(torch.device("cpu"))
            self.units: list[int] = []

        def will_run(self, unit: int) -> None:
            self.units.append(unit)

    save_tiny("llama", tmp_path)
    store, group = Streamed(), CountingGroup()
    shard = Shard(0, 2, 0, 3)
    loaded = Loaded.of(tmp_path, torch.float32, store, shard, group)
    loaded.run(prompt_rows(is_asked=False))
    assert (group.num_sums, group.num_heads) == (1 + 2 * 2, 0)  # the embedding's, and two of each layer but the last
    assert store.units == [0, 1, 2, 3, 4]
    loaded.run(prompt_rows())
    assert (group.num_sums, group.num_heads) == (5 + 7, 1)


def test_what_is_not_there_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    save_tiny("llama", tmp_path)
    loaded = Loaded.of(tmp_path, torch.float32, TorchWeights(torch.device("cpu")))
    for name, value in (("token_ids", 97), ("token_ids", -1), ("positions", 64), ("slots", 64), ("context_slots", 64)):
        rows = prompt_rows()
        getattr(rows, name)[3] = value
        with pytest.raises(ValueError, match=f"{name} must be from 0 to"):
            loaded.run(rows)
    assert not any(cache.any() for cache in loaded.caches.keys)


def test_hidden_states_are_handed_out_by_place() -> None:
    """In any order of ops, of the asked rows alone behind the choice of rows, and of no rows where nothing is asked."""
    table = torch.randn(VOCAB_SIZE, HIDDEN)
    ops: tuple[Op, ...] = (
        Embed(0, table, 1.0, 0, VOCAB_SIZE),
        KeepHidden(0, 1, HIDDEN),
        TakeRows((0,)),
        KeepHidden(0, 0, HIDDEN),
    )
    whole = replace(program(store=TorchWeights(CPU)), ops=ops, num_layers=0, num_kept=2)
    executable = TorchProgram(whole, CPU, torch.float32, OneRank(), lambda unit: None)
    own = KvCaches((torch.zeros(9, 1, 1),), (torch.zeros(9, 1, 1),))
    rows = replace(chain([5, 39, 40], [None]), asked_rows=array("q", [2]))
    asked, every = executable.run(rows, own).hidden
    assert torch.equal(asked, table[[40]])
    assert torch.equal(every, table[[5, 39, 40]])
    none, every = executable.run(replace(rows, asked_rows=array("q"), choices=[]), own).hidden
    assert none.shape == (0, HIDDEN)
    assert len(every) == 3
    with pytest.raises(ValueError, match="in rising order"):
        executable.run(replace(rows, asked_rows=array("q", [2, 1]), choices=[None, None]), own)


def test_weights_of_another_store_are_refused_before_anything_runs() -> None:
    with pytest.raises(ValueError, match="PackedLinear is no linear of torch"):
        TorchProgram(program(), CPU, torch.float32, OneRank(), lambda unit: None)

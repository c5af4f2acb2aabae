"""The programs of the residual forms, line by line; and what a shard, a store and hidden states change of them."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

import torch

from specgrove.models.decoder.sharding import Shard
from specgrove.program.ops import LoadUnit, SumRanks
from specgrove.program.program import Program
from specgrove.program.stores import MemoryWeights, WeightStore
from specgrove.program.torch_backend import TorchWeights
from tests.models.families import save_tiny
from tests.program.listing import listing
from tests.program.programs import Loaded

CPU = torch.device("cpu")
ONE_LAYER = Shard(0, 1, 0, 1)
LAST_OF_LAYERS = {"opt-350m": "AddNorm"}


def program_of(
    variant: str,
    folder: Path,
    shard: Shard = ONE_LAYER,
    store: WeightStore | None = None,
    keep_hidden: Collection[int] = (),
) -> Program:
    """Of one layer, unless a shard says more."""
    save_tiny(variant, folder)
    store = store or TorchWeights(CPU)
    return Loaded.of(folder, torch.float32, store, shard, keep_hidden=keep_hidden).program


def names(program: Program) -> list[str]:
    return [type(op).__name__ for op in program.ops]


def test_norms_before_each_part(tmp_path: Path) -> None:
    assert listing(program_of("llama", tmp_path)) == [
        "Embed out=hidden table=97x48 scale=1 first_id=0 vocab_size=97",
        "Norm out=normed x=hidden kind=rms weights=48 eps=1e-06",
        "Multiply out=wide x=normed linear=48->80",
        "RotateStore queries=queries qkv=wide layer=0 heads=6/2x8 cos_sin=64x8",
        "Attend out=inner queries=queries layer=0 heads=6/2x8 scale=0.3536",
        "Multiply out=added x=inner linear=48->48",
        "AddNorm out=normed x=hidden delta=added kind=rms weights=48 eps=1e-06",
        "Multiply out=wide x=normed linear=48->160",
        "Activate out=inner x=wide activation=silu is_gated size=80",
        "Multiply out=other x=inner linear=80->48",
        "Add x=hidden delta=other",
        "TakeRows buffers=hidden",
        "Norm out=normed x=hidden kind=rms weights=48 eps=1e-06",
        "Choose x=normed vocab=48->97 widths=(97,)",
    ]


def test_norms_after_each_sum(tmp_path: Path) -> None:
    """The embedding is projected, and so is what the head reads; there is no last norm."""
    assert listing(program_of("opt-350m", tmp_path)) == [
        "Embed out=other table=97x24 scale=1 first_id=0 vocab_size=97",
        "Multiply out=hidden x=other linear=24->48",
        "AddPositions x=hidden table=64x48",
        "Multiply out=wide x=hidden linear=48->144",
        "RotateStore queries=queries qkv=wide layer=0 heads=6/6x8",
        "Attend out=inner queries=queries layer=0 heads=6/6x8 scale=0.3536",
        "Multiply out=added x=inner linear=48->48",
        "AddNorm out=normed x=hidden delta=added kind=layer weights=48 with shift eps=1e-05",
        "Multiply out=wide x=normed linear=48->80",
        "Activate out=inner x=wide activation=relu size=80",
        "Multiply out=other x=inner linear=80->48",
        "AddNorm out=hidden x=normed delta=other kind=layer weights=48 with shift eps=1e-05",
        "TakeRows buffers=hidden",
        "Multiply out=other x=hidden linear=48->24",
        "Choose x=other vocab=24->97 widths=(97,)",
    ]


def test_attention_and_mlp_side_by_side(tmp_path: Path) -> None:
    assert listing(program_of("falcon-40b", tmp_path)) == [
        "Embed out=hidden table=97x64 scale=1 first_id=0 vocab_size=97",
        "Norm out=normed x=hidden kind=layer weights=64 with shift eps=1e-05",
        "Multiply out=wide x=normed linear=64->128",
        "RotateStore queries=queries qkv=wide layer=0 heads=4/2x16 cos_sin=64x16",
        "Attend out=inner queries=queries layer=0 heads=4/2x16 scale=0.25",
        "Multiply out=added x=inner linear=64->64",
        "Norm out=normed x=hidden kind=layer weights=64 with shift eps=1e-05",
        "Multiply out=wide x=normed linear=64->256",
        "Activate out=inner x=wide activation=gelu size=256",
        "Multiply out=other x=inner linear=256->64",
        "Add x=added delta=other",
        "Add x=hidden delta=added",
        "TakeRows buffers=hidden",
        "Norm out=normed x=hidden kind=layer weights=64 with shift eps=1e-05",
        "Choose x=normed vocab=64->97 widths=(97,)",
    ]


def test_norms_of_heads_and_of_what_is_added(tmp_path: Path) -> None:
    """The second layer, of a window's kind: hidden states come from a stage before, and go on to one behind."""
    shard = Shard(0, 1, 2, 3, is_first_stage=False, is_last_stage=False)
    assert listing(program_of("gemma3", tmp_path, shard)) == [
        "Input out=hidden width=48",
        "Norm out=normed x=hidden kind=rms weights=48 eps=1e-06",
        "Multiply out=wide x=normed linear=48->80",
        "HeadNorm x=wide scale=8 eps=1e-06 first_head=0 num_heads=6 head_dim=8",
        "HeadNorm x=wide scale=8 eps=1e-06 first_head=6 num_heads=2 head_dim=8",
        "RotateStore queries=queries qkv=wide layer=0 heads=6/2x8 cos_sin=64x8",
        "Attend out=inner queries=queries layer=0 heads=6/2x8 scale=0.0625 window=4",
        "Multiply out=added x=inner linear=48->48",
        "Norm out=other x=added kind=rms weights=48 eps=1e-06",
        "AddNorm out=normed x=hidden delta=other kind=rms weights=48 eps=1e-06",
        "Multiply out=wide x=normed linear=48->160",
        "Activate out=inner x=wide activation=gelu_tanh is_gated size=80",
        "Multiply out=added x=inner linear=80->48",
        "Norm out=other x=added kind=rms weights=48 eps=1e-06",
        "Add x=hidden delta=other",
        "KeepHidden x=hidden place=0 width=48",
    ]


def test_factors_of_what_is_added_and_of_what_the_head_reads(tmp_path: Path) -> None:
    """Those of the embedding and of scores are fields of their ops."""
    lines = listing(program_of("granite", tmp_path))
    assert lines[0].startswith("Embed out=hidden table=97x48 scale=3 ")
    assert "scale=0.2" in lines[4]
    scaled = [place for place, line in enumerate(lines) if line.startswith("Scale")]
    assert [lines[place] for place in scaled] == [
        "Scale x=added factor=0.3",
        "Scale x=other factor=0.3",
        "Scale x=normed factor=0.5",
    ]
    assert [lines[place - 1].split()[0] for place in scaled] == ["Multiply", "Multiply", "Norm"]


def test_a_store_may_want_rows_early(tmp_path: Path) -> None:
    """Behind the last layer's keys and values, with all that is read from there on."""
    for variant, taken in (
        ("llama", "hidden,queries"),
        ("opt-350m", "hidden,queries"),
        ("falcon-11b", "hidden,normed,queries"),
    ):
        lines = listing(program_of(variant, tmp_path / variant, store=MemoryWeights()))
        place = lines.index(f"TakeRows buffers={taken}")
        assert [line.split()[0] for line in lines[place - 1 : place + 2]] == ["RotateStore", "TakeRows", "Attend"]
    kept = program_of("llama", tmp_path, store=MemoryWeights(), keep_hidden=[1])
    assert names(kept)[-6:] == ["Multiply", "Add", "Norm", "KeepHidden", "TakeRows", "Choose"]  # of all rows


def test_hidden_states_are_kept_where_they_are_whole(tmp_path: Path) -> None:
    """What is still to be added is added first, whatever the form."""
    for variant in ("llama", "opt-350m", "falcon-7b", "gemma3"):
        program = program_of(variant, tmp_path / variant, Shard(0, 1, 0, 3), keep_hidden=[0, 2, 3])
        assert program.num_kept == 3
        assert names(program).count("KeepHidden") == 3
        before = [names(program)[place - 1] for place, name in enumerate(names(program)) if name == "KeepHidden"]
        assert before == ["RotateStore", "RotateStore", LAST_OF_LAYERS.get(variant, "Add")]


def test_ranks_sum_what_each_part_adds_and_units_are_named_before_they_are_used(tmp_path: Path) -> None:
    class Streamed(TorchWeights):
        is_streamed = True

    program = program_of("llama", tmp_path, Shard(1, 2, 0, 3), Streamed(CPU))
    sums = [op for op in program.ops if isinstance(op, SumRanks)]
    assert len(sums) == 1 + 3 * 2  # the embedding's
    assert [op.unit for op in program.ops if isinstance(op, LoadUnit)] == [0, 1, 2, 3, 4]
    segments = list(program.segments())
    assert [op for segment in segments for op in segment] == list(program.ops)
    for segment in segments:
        assert len(segment) == 1 or not any(isinstance(op, SumRanks | LoadUnit) for op in segment)
    parallel = program_of("falcon-7b", tmp_path / "falcon", Shard(0, 2, 0, 3))
    assert names(parallel).count("SumRanks") == 1 + 3  # of attention and MLP at once

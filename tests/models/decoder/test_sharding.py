"""Parts of a model: together they are the whole, and their results add up to the whole's."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from specgrove.models.decoder.family import read_spec
from specgrove.models.decoder.parallel_layout import ParallelLayout
from specgrove.models.decoder.sharding import Shard, heads_of, mlp_part, part, stage_layers
from specgrove.models.errors import UnsupportedModelError
from tests.models.families import save_tiny


@given(st.integers(0, 300), st.integers(1, 9))
def test_parts_cover_everything_once(total: int, size: int) -> None:
    parts = [part(total, rank, size) for rank in range(size)]
    assert [i for own in parts for i in own] == list(range(total))


@pytest.mark.parametrize(
    ("total", "size", "sizes"),
    [
        (1536, 2, [768, 768]),  # whole groups of 128
        (1536, 8, [192] * 8),  # of 64
        (11008, 4, [21 * 128, 22 * 128, 21 * 128, 22 * 128]),  # of 128, though not even: checkpoints have such groups
        (128, 3, [42, 43, 43]),  # no rank without columns
        (80, 3, [26, 27, 27]),
    ],
)
def test_every_rank_has_its_share_of_the_mlp(total: int, size: int, sizes: list[int], tmp_path: Path) -> None:
    save_tiny("llama", tmp_path)
    spec = replace(read_spec(tmp_path), intermediate_size=total)
    parts = [mlp_part(spec, Shard(rank, size, 0, 1)) for rank in range(size)]
    assert [len(own) for own in parts] == sizes
    assert [i for own in parts for i in own] == list(range(total))


def test_more_ranks_than_columns_are_refused(tmp_path: Path) -> None:
    save_tiny("llama", tmp_path)
    spec = replace(read_spec(tmp_path), intermediate_size=3)
    with pytest.raises(
        UnsupportedModelError, match="--tensor-parallel 4: so many ranks can't share an MLP of 3 columns"
    ):
        mlp_part(spec, Shard(0, 4, 0, 1))


def test_stages_cover_all_layers() -> None:
    assert stage_layers(7, 3) == (range(0, 2), range(2, 4), range(4, 7))
    assert stage_layers(7, (5, 1, 1)) == (range(0, 5), range(5, 6), range(6, 7))
    for wrong in (8, 99):
        with pytest.raises(ValueError, match=f"^--pipeline-parallel {wrong}: must be 1 to 7, the model's layers$"):
            stage_layers(7, wrong)
    for named in ((3, 3), (7, 0), (4, 4)):
        said = f"^--pipeline-parallel: 2 stages with {sum(named)} layers together; the model has 7, and every stage needs one$"
        with pytest.raises(ValueError, match=said):
            stage_layers(7, named)


def test_every_query_head_is_on_one_rank_with_its_kv_head(tmp_path: Path) -> None:
    save_tiny("llama", tmp_path)
    spec = read_spec(tmp_path)  # 6 heads over 2 KV heads
    for num_heads, num_kv_heads, size in (
        (6, 2, 2),
        (6, 2, 6),
        (6, 2, 4),
        (8, 2, 4),
        (9, 3, 2),
        (71, 1, 2),
        (71, 1, 8),
        (12, 4, 2),
    ):
        spec = replace(spec, num_heads=num_heads, num_kv_heads=num_kv_heads)
        shards = [heads_of(spec, Shard(rank, size, 0, 1)) for rank in range(size)]
        assert [i for s in shards for i in range(s.first_q, s.first_q + s.num_q)] == list(range(num_heads))
        group = num_heads // num_kv_heads
        for shard in shards:
            own_group = shard.num_q // shard.num_kv
            for i in range(shard.num_q):
                assert shard.kv_heads[i // own_group] == (shard.first_q + i) // group
    with pytest.raises(UnsupportedModelError, match="--tensor-parallel 7: so many ranks can't share 6 heads"):
        heads_of(replace(spec, num_heads=6, num_kv_heads=2), Shard(0, 7, 0, 1))


def test_the_layout_numbers_ranks_stage_by_stage(tmp_path: Path) -> None:
    save_tiny("llama", tmp_path)
    layout = ParallelLayout(tensor_size=2, num_stages=2)
    shards = [layout.shard_of(rank, read_spec(tmp_path)) for rank in range(layout.num_ranks)]
    assert [(s.tensor_rank, s.first_layer, s.end_layer) for s in shards] == [(0, 0, 1), (1, 0, 1), (0, 1, 3), (1, 1, 3)]
    assert [(s.is_first_stage, s.is_last_stage) for s in shards] == [(True, False)] * 2 + [(False, True)] * 2
    assert layout.describe(3) == "rank 3 (stage 1, tensor rank 1)"

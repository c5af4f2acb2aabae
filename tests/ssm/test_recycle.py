"""The table of what the LLM last thought likely: what is drafted from it, how it is weighted, its bounds and its file."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import SafetensorError

from specgrove.kernels.sampling import gumbel_noise
from specgrove.loop.verifier_knowledge import DraftSampling, RowTopK
from specgrove.loop.works import DraftWork, TreeShape
from specgrove.settings.ssm_specs import parse_ssm
from ssm_service import store_file
from ssm_service.config import PoolConfig
from ssm_service.loading import info_of
from ssm_service.pool import DrafterPool
from ssm_service.recycle import RecycleSsm
from tests.ssm.pools import ask

SHAPE = TreeShape(max_num_nodes=6, max_depth=3)


def row(token_id: int, *following: int) -> RowTopK:
    return RowTopK(0, token_id, tuple((each, -0.5 * place) for place, each in enumerate(following)))


CYCLE = (row(1, 2, 5), row(2, 3, 6), row(3, 1, 7))


def test_grows_along_what_followed_last_and_the_likeliest_comes_first() -> None:
    ssm = RecycleSsm("recycle")
    assert ssm.draft("s", [9, 1], SHAPE).num_nodes == 1
    tree = ssm.draft("s", [9, 1], SHAPE, rows=CYCLE)
    paths = {(tree.token_ids[tree.parents[node]], tree.token_ids[node]) for node in range(1, tree.num_nodes)}
    assert {(1, 2), (2, 3), (3, 1), (1, 5)} <= paths
    assert max(tree.depths()) == 3
    assert tree.num_nodes == 7
    tree = ssm.draft("s", [9, 1], SHAPE, rows=[row(1, 8)])
    assert tree.token_ids[1:] == (8,)
    assert ssm.draft("s", [9, 1], TreeShape(0, 0)).num_nodes == 1


def test_probabilities_follow_the_ranks_that_came_true() -> None:
    ssm = RecycleSsm("recycle")
    token_ids = [1]
    ssm.draft("s", token_ids, SHAPE, rows=[row(1, 2, 1)])
    for _ in range(2000):
        token_ids.append(1)  # always the second
        ssm.draft("s", token_ids, TreeShape(0, 0))
    tree = ssm.draft("t", [1], TreeShape(2, 1))
    said = dict(zip(tree.token_ids[1:], map(math.exp, tree.log_probs[1:]), strict=True))
    assert said[1] > 0.95
    assert said[2] < 0.05


def test_noise_ranks_the_tokens_of_sampled_sessions() -> None:
    ssm = RecycleSsm("recycle")
    ssm.draft("s", [1], SHAPE, rows=[row(1, *range(2, 10)), *(row(i, i) for i in range(2, 10))])
    firsts = set()
    for seed in range(30):
        tree = ssm.draft("t", [4, 1], TreeShape(3, 2), DraftSampling(0.8, seed))
        firsts.add(tree.token_ids[1])
        noise = gumbel_noise(seed, 2, torch.arange(2, 10))
        rates = torch.tensor([0.35, 0.11, 0.06, 0.04, 0.03, 0.02, 0.015, 0.015]).log()
        best = int((rates + noise).argmax()) + 2
        assert best in [tree.token_ids[node] for node in range(1, tree.num_nodes) if tree.parents[node] == 0]
    assert len(firsts) > 2


def test_the_table_is_bounded_and_forgets_what_was_seen_longest_ago() -> None:
    ssm = RecycleSsm("recycle", max_num_entries=3)
    ssm.draft("s", [0], SHAPE, rows=[row(1, 2), row(2, 3), row(3, 4), row(1, 5), row(4, 6)])
    assert ssm.num_entries == 3
    assert ssm.draft("t", [2], SHAPE).num_nodes == 1
    assert ssm.draft("u", [1], SHAPE).token_ids[1] == 5


def test_the_table_outlives_the_service(tmp_path: Path) -> None:
    first = RecycleSsm("recycle", tmp_path / "table")
    trees = [first.draft(name, [7, 1], SHAPE, rows=CYCLE) for name in ("s", "t")]
    first.draft("s", [7, 1, 2, 3, 1], TreeShape(0, 0))
    expected = first.draft("u", [1], SHAPE)
    first.save()
    second = RecycleSsm("recycle", tmp_path / "table")
    assert second.draft("u", [1], SHAPE) == expected != trees[0]


def test_a_table_of_another_shape_is_refused(tmp_path: Path) -> None:
    ssm = RecycleSsm("recycle", tmp_path / "table")
    assert ssm._file is not None
    counts = torch.ones(9, dtype=torch.float64)
    ssm._file.save({"token_ids": torch.zeros(2).int(), "following": torch.zeros(2, 7).int(), "counts": counts})
    with pytest.raises(ValueError, match="recycle table"):
        RecycleSsm("recycle", tmp_path / "table")


@pytest.mark.parametrize("counts", [[2.0] * 8 + [1.0], [1.0] * 8 + [torch.inf], [torch.nan] + [1.0] * 8])
def test_a_table_by_which_more_came_true_than_was_tried_is_refused(counts: list[float], tmp_path: Path) -> None:
    ssm = RecycleSsm("recycle", tmp_path / "table")
    assert ssm._file is not None
    ids = {"token_ids": torch.zeros(2).int(), "following": torch.zeros(2, 8).int()}
    ssm._file.save({**ids, "counts": torch.tensor(counts, dtype=torch.float64)})
    with pytest.raises(ValueError, match="table: a recycle table has numbers above 0 of hits"):
        RecycleSsm("recycle", tmp_path / "table")


@pytest.mark.parametrize("error", [SafetensorError("I/O error: No space left on device (os error 28)"), OSError("no")])
def test_a_table_that_cannot_be_written_is_told_and_the_others_are(
    error: Exception, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file of before stays, and nothing half-written beside it."""
    write = store_file.save_file

    def save_file(tensors: Any, path: Path, metadata: Any) -> None:
        write(tensors, path, metadata)
        if path.name.startswith("full"):
            raise error

    tables = {name: RecycleSsm(name, tmp_path / name) for name in ("full", "other")}
    pool = DrafterPool(list(tables.values()), PoolConfig())
    pool.ssms.save()
    monkeypatch.setattr(store_file, "save_file", save_file)
    before = (tmp_path / "full").read_bytes()
    (tmp_path / "other").unlink()
    with pytest.raises(OSError, match=r"full: the recycle table can't be written: "):
        pool.ssms.save()
    assert (tmp_path / "full").read_bytes() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["full", "other"]


def test_a_place_that_cannot_be_written_to_is_told_at_the_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store_file.os, "access", lambda *_: False)
    with pytest.raises(ValueError, match=r"nothing can be written to .*, where the recycle table is to be kept"):
        RecycleSsm("recycle", tmp_path / "table")


def test_a_table_where_nothing_can_be_written_is_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Learnt elsewhere, and brought here to be read."""
    RecycleSsm("recycle", tmp_path / "table").save()
    monkeypatch.setattr(store_file.os, "access", lambda *_: False)
    RecycleSsm("recycle", tmp_path / "table")
    assert "what is learnt from now on will be lost" in caplog.text


def test_the_pool_takes_rows_in_and_says_that_it_wants_them(tmp_path: Path) -> None:
    spec = parse_ssm(f"recycle,store={tmp_path / 'table'}")
    ssm = RecycleSsm(spec.name, spec.store)
    info = info_of(spec, ssm)
    assert (info.mode, info.num_row_top_k, info.vocab_sha256) == ("recycle", 8, "")
    pool = DrafterPool([ssm], PoolConfig())
    assert ask(pool, DraftWork("s", 0, (9, 1), SHAPE)).trees == ()
    (drafted,) = ask(pool, DraftWork("s", 2, (2,), SHAPE, row_top_k=CYCLE)).trees
    assert (drafted.ssm, drafted.tree.token_ids[:2]) == ("recycle", (2, 3))
    pool.close_session("s")
    pool.ssms.save()
    assert RecycleSsm(spec.name, spec.store).num_entries == 3

"""SSMs compute what texts have in common once, and no draft tells: it is the same, bit for bit, with the cache and without."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch

from specgrove.errors import InvalidRequestError
from specgrove.kernels.rows import PassRows
from specgrove.loop.token_tree import TokenTree
from specgrove.loop.verifier_knowledge import DraftSampling
from specgrove.loop.works import Draft, DraftWork, TreeShape
from specgrove.runtime.model_runner import ModelRunner
from ssm_service.config import PoolConfig
from ssm_service.draft_tree import Beam
from ssm_service.neural import NeuralSsm
from ssm_service.pool import DrafterPool
from tests.conftest import TINY_VOCAB_SIZE
from tests.models.families import load_tiny
from tests.ssm.pools import SHAPE, ask, run

RNG = random.Random(5)
PROMPT = tuple(RNG.randrange(3, 90) for _ in range(48))
FURTHER = tuple(RNG.randrange(3, 90) for _ in range(6))
READ_ONLY = TreeShape(0, 0)
SAMPLED = DraftSampling(0.8, 7, 0, 1.0)


def pool_of(
    runner: ModelRunner, *, num_slots: int | None = None, has_prefix_cache: bool = True, chunk_len: int = 16
) -> DrafterPool:
    if num_slots is not None:
        runner = ModelRunner(runner.decoder, num_slots)
    ssm = NeuralSsm("ssm", runner, Beam(3), None, max_num_chunk_tokens=chunk_len, has_prefix_cache=has_prefix_cache)
    return DrafterPool([ssm], PoolConfig())


def counts_of(pool: DrafterPool) -> tuple[int, int]:
    """Tokens that were found, and that were computed."""
    counts = pool.ssms.neural["ssm"].read_counts
    return counts.num_cached_tokens, counts.num_computed_tokens


def deepest_path(tree: TokenTree) -> list[int]:
    node, path = tree.num_nodes - 1, []
    while node > 0:
        path.insert(0, tree.token_ids[node])
        node = tree.parents[node]
    return path


def turn(pool: DrafterPool, name: str, prompt: Sequence[int], sampling: DraftSampling | None) -> list[Draft]:
    """A turn of a conversation: drafts, of which a path is accepted, and a token of the verifier's own. It is closed after it."""
    committed, new = list(prompt), tuple(prompt)
    found = []
    for number in range(4):
        base = len(committed) - len(new)
        found.append(ask(pool, DraftWork(name, base, new, SHAPE, sampling=sampling, cache_salt="")))
        pool.ssms.check_slots()
        new = (*deepest_path(found[-1].trees[0].tree), 7 + number)
        committed += new
    pool.close_session(name)
    pool.ssms.check_slots()
    return found


def trees(drafts: Sequence[Draft]) -> list[object]:
    return [draft.trees for draft in drafts]


@pytest.mark.parametrize("sampling", [None, SAMPLED], ids=["greedy", "sampled"])
@pytest.mark.parametrize(
    ("variant", "kind"),
    [
        ("llama", "float32"),
        ("llama", "bfloat16"),
        ("llama", "int8"),
        ("mistral-window", "bfloat16"),
        ("qwen3", "bfloat16"),
        ("opt", "bfloat16"),
        ("mpt", "bfloat16"),
        ("gemma3", "bfloat16"),
    ],
)
def test_second_turns_have_the_bits_of_first_ones(
    variant: str, kind: str, sampling: DraftSampling | None, tmp_path: Path
) -> None:
    decoder = load_tiny(variant, kind, tmp_path)
    with_cache = pool_of(ModelRunner(decoder, 200))
    without = pool_of(ModelRunner(decoder, 200), has_prefix_cache=False)
    prompt = PROMPT[:24]  # these models know few positions
    first = turn(with_cache, "first", prompt, sampling)
    second_prompt = [*prompt, *deepest_path(first[0].trees[0].tree), 7, *FURTHER]
    _, num_computed = counts_of(with_cache)
    second = turn(with_cache, "second", second_prompt, sampling)
    num_cached, num_computed_then = counts_of(with_cache)
    assert num_cached == len(second_prompt) - len(FURTHER)
    assert num_computed_then - num_computed <= len(FURTHER) + 4 * 3
    assert trees(turn(without, "first", prompt, sampling)) == trees(first)
    assert trees(turn(without, "second", second_prompt, sampling)) == trees(second)
    assert counts_of(without)[0] == 0


def test_a_session_opened_anew_finds_its_tokens(runners: list[ModelRunner]) -> None:
    """As after a restart of the router, which sends all of them again."""
    pool = pool_of(runners[0])
    before = ask(pool, DraftWork("s", 0, PROMPT, SHAPE, cache_salt="mine"))
    for name in ("s", "another"):
        _, num_computed = counts_of(pool)
        assert ask(pool, DraftWork(name, 0, PROMPT, SHAPE, cache_salt="mine")).trees == before.trees
        assert counts_of(pool)[1] - num_computed == 1  # the last one, for its logits
        assert ask(pool, DraftWork(name, len(PROMPT), (), SHAPE)).trees == before.trees  # and once more
        pool.ssms.check_slots()


def test_sessions_side_by_side_share_what_they_begin_with(runners: list[ModelRunner]) -> None:
    """They come together: none has anything yet. One reads what all begin with, the others wait for it."""
    prompts = [(*PROMPT, *PROMPT, *FURTHER[:number]) for number in range(1, 5)]
    without = pool_of(runners[0], num_slots=1000, has_prefix_cache=False)
    right = [ask(without, DraftWork(f"s{i}", 0, prompt, SHAPE)).trees for i, prompt in enumerate(prompts)]
    pool = pool_of(runners[0], num_slots=1000, chunk_len=256)  # all of it could be read in two passes
    for number, prompt in enumerate(prompts):
        pool.add(number, DraftWork(f"s{number}", 0, prompt, SHAPE, cache_salt=""))
    results: dict[int, object] = {}
    while pool.has_work():
        results.update(pool.step())
        pool.ssms.check_slots()
    for number, expected in enumerate(right):
        draft = results[number]
        assert isinstance(draft, Draft)
        assert draft.trees == expected
    assert counts_of(without)[1] == sum(map(len, prompts))
    assert counts_of(pool)[1] < 2 * len(PROMPT) + 4 * 8
    used = pool.ssms.num_slots - pool.ssms.num_free_slots
    assert used < 2 * len(PROMPT) + 4 * 60


def test_salts_share_nothing_and_none_shares_with_nobody(runners: list[ModelRunner]) -> None:
    pool = pool_of(runners[0], num_slots=1000)
    found = []
    for number, salt in enumerate(("", "a", "b", "a", None, None, "")):
        before, _ = counts_of(pool)
        ask(pool, DraftWork(f"s{number}", 0, PROMPT, READ_ONLY, cache_salt=salt))
        found.append(counts_of(pool)[0] - before)
        pool.close_session(f"s{number}")
    shared = len(PROMPT) - 1
    assert found == [0, 0, 0, shared, 0, 0, shared]
    assert pool.ssms.neural["ssm"].slots.num_cached == 3 * len(PROMPT)
    with pytest.raises(InvalidRequestError, match="cache_salt"):
        pool.add(1, DraftWork("s", 0, PROMPT, SHAPE, cache_salt="x" * 257))


def test_switched_off_nothing_is_kept(runners: list[ModelRunner]) -> None:
    pool = pool_of(runners[0], has_prefix_cache=False)
    for number in range(2):
        ask(pool, DraftWork(f"s{number}", 0, PROMPT, READ_ONLY, cache_salt=""))
        pool.close_session(f"s{number}")
    assert counts_of(pool) == (0, 2 * len(PROMPT))
    assert pool.ssms.neural["ssm"].slots.num_cached == 0
    pool.ssms.check_slots()


def test_what_was_used_longest_ago_makes_room_first(runners: list[ModelRunner]) -> None:
    """From the ends of texts, and before any session that is open has to give anything up."""
    pool = pool_of(runners[0], num_slots=150)
    ssm = pool.ssms.neural["ssm"]
    prompts = [tuple((i * step + step) % TINY_VOCAB_SIZE for i in range(40)) for step in (3, 5, 7, 11)]
    ask(pool, DraftWork("open", 0, prompts[0], READ_ONLY, cache_salt=""))
    for number in (1, 2):
        ask(pool, DraftWork(f"s{number}", 0, prompts[number], READ_ONLY, cache_salt=""))
        pool.close_session(f"s{number}")
    ask(pool, DraftWork("new", 0, prompts[3], READ_ONLY, cache_salt=""))
    assert ssm.read_counts.num_evicted_slots == 10
    assert set(ssm._caches) == {"open", "new"}
    for name, prompt, num_found in (("again 2", prompts[2], 39), ("again 1", prompts[1], 29)):
        before, _ = counts_of(pool)
        ask(pool, DraftWork(name, 0, prompt, READ_ONLY, cache_salt=""))
        assert counts_of(pool)[0] - before == num_found
        pool.ssms.check_slots()
        pool.close_session(name)


def test_who_gave_its_room_away_finds_what_is_left(runners: list[ModelRunner]) -> None:
    pool, without = pool_of(runners[0], num_slots=120), pool_of(runners[0], has_prefix_cache=False)
    prompts = {name: tuple((i * step) % TINY_VOCAB_SIZE for i in range(50)) for name, step in (("a", 3), ("b", 5))}
    expected = {name: ask(without, DraftWork(name, 0, prompt, SHAPE)).trees for name, prompt in prompts.items()}
    for name, prompt in prompts.items():
        assert ask(pool, DraftWork(name, 0, prompt, SHAPE, cache_salt="")).trees == expected[name]
    ask(pool, DraftWork("c", 0, PROMPT[:35], READ_ONLY, cache_salt=""))
    ssm = pool.ssms.neural["ssm"]
    assert set(ssm._caches) == {"b", "c"}
    before, computed = counts_of(pool)
    assert ask(pool, DraftWork("a", 50, (), SHAPE)).trees == expected["a"]
    found, computed = counts_of(pool)[0] - before, counts_of(pool)[1] - computed
    assert (found > 0, found + computed) == (True, 50)
    pool.ssms.check_slots()


def test_a_tree_that_grows_takes_what_no_session_holds(runners: list[ModelRunner]) -> None:
    """Where the cache has all that was ever free. What is drafted then is right, too."""
    pool, without = pool_of(runners[0], num_slots=100), pool_of(runners[0], has_prefix_cache=False)
    ask(pool, DraftWork("before", 0, tuple(range(1, 90)), READ_ONLY, cache_salt=""))
    pool.close_session("before")
    pool.add(1, DraftWork("s", 0, PROMPT, SHAPE, ahead_ms=3_600_000, cache_salt=""))
    grown: list[Draft] = []
    for _ in range(12):
        for _, result in pool.step():
            assert isinstance(result, Draft), result
            grown += [result] if result.trees else []
        pool.ssms.check_slots()
    ssm = pool.ssms.neural["ssm"]
    assert grown[-1].trees[0].tree.num_nodes > 2 * SHAPE.max_num_nodes
    assert ssm.read_counts.num_evicted_slots > 0
    path = deepest_path(grown[-1].trees[0].tree)
    pool.add(2, DraftWork("s", len(PROMPT), tuple(path), SHAPE))
    draft = run(pool)[2]
    assert isinstance(draft, Draft)
    (right,) = ask(without, DraftWork("s", 0, (*PROMPT, *path), SHAPE)).trees
    assert draft.trees[0].tree.token_ids == right.tree.token_ids
    pool.close_session("s")
    pool.ssms.check_slots()
    assert ask(pool, DraftWork("t", 0, (*PROMPT, *path, 3), SHAPE, cache_salt="")).trees == (
        ask(without, DraftWork("t", 0, (*PROMPT, *path, 3), SHAPE)).trees
    )


def spoil(patched: pytest.MonkeyPatch, runner: ModelRunner) -> None:
    """From now on its logits are no numbers."""
    forward = runner.forward

    def spoilt(rows: PassRows) -> torch.Tensor:
        logits = forward(rows)
        logits[:] = torch.nan
        return logits

    patched.setattr(runner, "forward", spoilt)


def test_nothing_is_kept_of_what_was_no_numbers(runners: list[ModelRunner], monkeypatch: pytest.MonkeyPatch) -> None:
    """Else all that begin alike would be given it."""
    pool = pool_of(runners[0])
    ask(pool, DraftWork("other", 0, PROMPT[:9], READ_ONLY, cache_salt=""))
    with monkeypatch.context() as patched:
        spoil(patched, runners[0])
        assert ask(pool, DraftWork("s", 0, PROMPT, SHAPE, cache_salt="")).trees == ()
    assert pool.ssms.neural["ssm"].slots.num_cached == 8 + 32  # chunks before the one that showed it
    pool.close_session("s")
    assert pool.ssms.neural["ssm"].slots.num_cached == 8
    pool.ssms.check_slots()


def test_nor_of_a_tree_that_grew_on_to_what_was_no_numbers(
    runners: list[ModelRunner], monkeypatch: pytest.MonkeyPatch
) -> None:
    pool, prompt = pool_of(runners[0]), PROMPT[:20]
    pool.add(1, DraftWork("s", 0, prompt, SHAPE, ahead_ms=3_600_000, cache_salt=""))
    while not any(result.trees for _, result in pool.step()):
        pass
    with monkeypatch.context() as patched:
        spoil(patched, runners[0])
        pool.step()  # the tree grows on
    pool.close_session("s")
    assert pool.ssms.neural["ssm"].slots.num_cached == 0
    pool.ssms.check_slots()


def test_a_step_that_failed_leaves_nothing_in_the_cache(
    runners: list[ModelRunner], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: object) -> None:
        raise ValueError("no such slot")

    pool = pool_of(runners[0])
    ask(pool, DraftWork("s", 0, PROMPT, READ_ONLY, cache_salt=""))
    with monkeypatch.context() as patched:
        patched.setattr(runners[0], "finish_top_k", fails)
        pool.add(2, DraftWork("t", 0, PROMPT[::-1], SHAPE, cache_salt=""))
        with pytest.raises(ValueError, match="no such slot"):
            run(pool)
    pool.reset()  # as the step loop does
    pool.ssms.check_slots()
    assert pool.ssms.neural["ssm"].slots.num_cached == 0


def test_its_times_are_measured_where_the_cache_has_all_slots(runners: list[ModelRunner]) -> None:
    pool = pool_of(runners[0], num_slots=60)
    ask(pool, DraftWork("s", 0, tuple(range(1, 61)), READ_ONLY, cache_salt=""))
    assert pool.ssms.time_level("ssm", 4) is None
    pool.close_session("s")
    assert pool.ssms.num_free_slots == 60
    assert pool.ssms.time_level("ssm", 4) is not None
    pool.ssms.check_slots()

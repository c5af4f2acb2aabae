"""Drafting by matching: what is proposed, how it is weighted, and that sessions and the corpus are kept in bounds."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from specgrove.kernels.sampling import gumbel_noise
from specgrove.loop.verifier_knowledge import DraftSampling
from specgrove.loop.works import TreeShape
from ssm_service.corpus import Corpus
from ssm_service.lookup import LookupSsm
from ssm_service.recycle import RecycleSsm

SHAPE = TreeShape(max_num_nodes=8, max_depth=4)
NUM_CORPUS_TOKENS = 50_000


def with_corpus(path: Path | None = None) -> LookupSsm:
    return LookupSsm("lookup", Corpus(NUM_CORPUS_TOKENS, path))


def close(ssm: LookupSsm, session_id: str, output: list[int], prompt: list[int]) -> None:
    """A session that came and went."""
    ssm.draft(session_id, prompt, TreeShape(0, 0))
    ssm.draft(session_id, [*prompt, *output], TreeShape(0, 0))
    ssm.drop(session_id)


def test_proposes_what_followed_the_same_words() -> None:
    tree = LookupSsm("lookup").draft("s", [1, 2, 3, 4, 5, 9, 1, 2, 3], SHAPE)
    assert tree.token_ids == (3, 4, 5, 9, 1)
    assert tree.parents == (-1, 0, 1, 2, 3)
    assert all(log_prob < 0 for log_prob in tree.log_probs[1:])


def test_alternatives_become_branches_and_longer_matches_win() -> None:
    tree = LookupSsm("lookup").draft("s", [7, 1, 2, 4, 4, 7, 1, 2, 5, 5, 7, 1, 2], SHAPE)
    children = {tree.token_ids[node] for node in range(1, tree.num_nodes) if tree.parents[node] == 0}
    assert children == {4, 5}
    tree = LookupSsm("lookup").draft("s", [7, 1, 2, 4, 4, 8, 1, 2, 5, 5, 7, 1, 2], SHAPE)
    assert tree.token_ids[1] == 4
    assert 5 not in {tree.token_ids[node] for node in range(1, tree.num_nodes) if tree.parents[node] == 0}


def test_nothing_matches_nothing_is_proposed() -> None:
    ssm = LookupSsm("lookup")
    assert ssm.draft("s", [1, 2, 3, 4], SHAPE).num_nodes == 1
    assert ssm.draft("t", [1, 2, 1, 2], TreeShape(0, 0)).num_nodes == 1


def test_grows_with_the_session_and_forgets_closed_ones_unless_asked() -> None:
    for ssm, remembers in ((LookupSsm("lookup"), False), (with_corpus(), True)):
        ssm.draft("s", [1, 2, 3], SHAPE)
        assert ssm.draft("s", [1, 2, 3, 1, 2, 3, 4, 1, 2, 3], SHAPE).token_ids[1] == 4
        ssm.drop("s")
        ssm.drop("s")
        tree = ssm.draft("t", [9, 1, 2, 3], SHAPE)
        assert (tree.num_nodes > 1) == remembers
        assert not remembers or tree.token_ids[1] == 4


def test_the_corpus_outlives_the_service(tmp_path: Path) -> None:
    first = with_corpus(tmp_path / "corpus")
    for session_id, text in (("a", [1, 2, 3, 4]), ("b", [50, 51, 52])):
        close(first, session_id, text, [9])
    first.save()
    second = with_corpus(tmp_path / "corpus")
    assert second.draft("c", [9, 1, 2], SHAPE).token_ids == (2, 3, 4)
    assert second.draft("d", [4, 50], SHAPE).num_nodes == 1
    smaller = Corpus(1000, tmp_path / "corpus")
    assert smaller.num_tokens == second.corpus.num_tokens if second.corpus else False


def test_a_file_that_is_no_corpus_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("once upon a time")
    with pytest.raises(ValueError, match="text can't be read as a lookup corpus"):
        with_corpus(tmp_path / "text")
    RecycleSsm("recycle", tmp_path / "table").save()
    with pytest.raises(ValueError, match="table is recycle table, not a lookup corpus"):
        with_corpus(tmp_path / "table")
    with pytest.raises(ValueError, match=r"there is no folder .*missing"):
        with_corpus(tmp_path / "missing" / "corpus")


def test_noise_decides_how_sure_a_match_is_and_greedy_sessions_have_none() -> None:
    text = [1, 2, 7, 5, 1, 2, 8, 6, 1, 2]
    shape = TreeShape(8, 1)
    plain = LookupSsm("lookup").draft("s", text, shape)
    said = dict(zip(plain.token_ids[1:], plain.log_probs[1:], strict=True))
    assert said[7] == said[8]
    for seed in range(20):
        tree = LookupSsm("lookup").draft("s", text, shape, DraftSampling(0.8, seed))
        log_probs = dict(zip(tree.token_ids[1:], tree.log_probs[1:], strict=True))
        noise = dict(zip((7, 8), gumbel_noise(seed, len(text), torch.tensor([7, 8])).tolist(), strict=True))
        assert (log_probs[7] > log_probs[8]) == (noise[7] > noise[8])
        assert sum(map(math.exp, log_probs.values())) < 1


def test_confidence_follows_what_came_true() -> None:
    right, wrong = LookupSsm("right"), LookupSsm("wrong")
    for step in range(1, 40):
        right.draft("s", [1, 2, 3] * step, SHAPE)
        wrong.draft("s", [1, 2, 3, *(x for i in range(step) for x in (50 + i, 1, 2, 3))], SHAPE)
    sure = right.draft("t", [1, 2, 3, 4, 5, 1, 2, 3, 4, 5], SHAPE).log_probs[1]
    unsure = wrong.draft("t", [1, 2, 3, 4, 5, 1, 2, 3], SHAPE).log_probs[1]
    assert sure > unsure


def test_repetitions_go_on_past_the_end_of_the_text() -> None:
    tree = LookupSsm("lookup").draft("s", [9, 1, 2, 1, 2], TreeShape(6, 6))
    assert tree.token_ids == (2, 1, 2, 1, 2, 1, 2)


def test_what_followed_more_often_is_likelier() -> None:
    tree = LookupSsm("lookup").draft("s", [1, 2, 7, 5, 1, 2, 8, 6, 1, 2, 7, 9, 1, 2], TreeShape(8, 1))
    said = dict(zip(tree.token_ids[1:], tree.log_probs[1:], strict=True))
    assert said.keys() == {7, 8}
    assert said[7] > said[8]


def test_texts_of_the_corpus_do_not_run_into_one_another() -> None:
    ssm = with_corpus()
    for session_id, token_ids in (("a", [1, 2, 3]), ("b", [50, 51, 52])):
        close(ssm, session_id, token_ids, [9])
    assert ssm.draft("c", [1, 2], SHAPE).token_ids == (2, 3)
    assert ssm.draft("d", [2, 3], SHAPE).num_nodes == 1
    assert ssm.draft("e", [3, 50], SHAPE).num_nodes == 1


def test_no_token_of_a_prompt_is_drafted_for_another_session() -> None:
    ssm = with_corpus()
    prompt = [11, 12, 13, 14, 15, 16]
    close(ssm, "no output", [], prompt)
    close(ssm, "a", [50, 51, 52], prompt)
    ssm.draft("b", [*prompt, 70, 71], TreeShape(0, 0))  # sent anew with its first tokens, as to a service that lost it
    ssm.draft("b", [*prompt, 70, 71, 72, 73, 74], TreeShape(0, 0))
    ssm.drop("b")
    for start in range(len(prompt) - 1):
        assert ssm.draft(f"s{start}", [90, *prompt[start : start + 2]], SHAPE).num_nodes == 1
    assert ssm.draft("t", [90, 16, 50], SHAPE).num_nodes == 1
    assert ssm.draft("u", [90, 50, 51], SHAPE).token_ids[1:] == (52,)
    assert ssm.draft("v", [90, 72, 73], SHAPE).token_ids[1:] == (74,)


def test_the_corpus_is_bounded_and_forgets_the_oldest() -> None:
    ssm = with_corpus()
    for session in range(40):
        close(ssm, f"s{session}", [session * 10_000 + i for i in range(3000)], [9])
        assert ssm.corpus is not None
        assert ssm.corpus.num_tokens <= NUM_CORPUS_TOKENS
    assert ssm.draft("old", [1500, 1501], SHAPE).num_nodes == 1
    assert ssm.draft("late", [391_500, 391_501], SHAPE).token_ids[1] == 391_502


@given(st.lists(st.integers(0, 3), min_size=1, max_size=40), st.integers(0, 9), st.integers(0, 5), st.integers(1, 7))
def test_any_text_gives_a_valid_tree(text: list[int], num_nodes: int, depth: int, step: int) -> None:
    """Fed bit by bit, with an earlier output in the corpus: well formed, within its shape, the same as fed at once."""
    ssm, at_once = LookupSsm("a", Corpus(1000)), LookupSsm("b", Corpus(1000))
    for each in (ssm, at_once):
        close(each, "earlier", [0, 1, 2, 3, 0, 1], [2])
    for end in (*range(1, len(text), step), len(text)):
        tree = ssm.draft("s", text[:end], TreeShape(num_nodes, depth)).validated(
            vocab_size=4, max_num_nodes=num_nodes + 1
        )
        assert tree.token_ids[0] == text[end - 1]
        assert max(tree.depths()) <= depth
    all_nodes = TreeShape(99, depth)
    assert ssm.draft("s", text, all_nodes).parents == at_once.draft("s", text, all_nodes).parents


def test_several_alternatives_of_a_sampled_session_are_a_tree_with_probabilities() -> None:
    """Each of them goes on with tokens that have no alternative; the first ones are found in no order of their rates."""
    ssm = LookupSsm("lookup")
    text = [10, 1, 2, 3, 4, 5, 11, 1, 2, 3, 7, 8, 12, 1, 2, 3, 7, 8, 13, 1, 2, 3]
    tree = ssm.draft("s", text, TreeShape(12, 4), DraftSampling(temperature=1.0, seed=5))
    checked = tree.validated(vocab_size=100, max_num_nodes=64)
    children = {
        token_id for token_id, parent in zip(checked.token_ids[1:], checked.parents[1:], strict=True) if parent == 0
    }
    assert children == {4, 7}
    assert (
        sum(math.exp(checked.log_probs[n]) for n in range(1, checked.num_nodes) if checked.parents[n] == 0) <= 1 + 1e-5
    )

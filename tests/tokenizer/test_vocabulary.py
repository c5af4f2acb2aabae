"""Vocabularies: which ids mean the same to two models, and when they are close enough to draft for one another."""

from __future__ import annotations

import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from specgrove.loop.token_tree import TokenTree
from specgrove.tokenizer.vocabulary import compare_vocabularies, token_checksums

VOCAB = {f"token {i}": i for i in range(100)}


def test_an_equal_vocabulary_has_no_foreign_ids() -> None:
    match = compare_vocabularies(token_checksums(VOCAB), token_checksums(dict(reversed(VOCAB.items()))))
    assert (match.num_shared, match.num_tokens, match.foreign_ids, match.is_close) == (100, 100, frozenset(), True)


def test_ids_that_nobody_names_are_not_foreign() -> None:
    llm, ssm = VOCAB | {"<end>": 150}, VOCAB | {"<end>": 150}
    assert compare_vocabularies(token_checksums(llm), token_checksums(ssm)).foreign_ids == frozenset()


def test_a_renamed_token_and_those_of_one_side_only_are_foreign() -> None:
    llm = {**VOCAB, "<end>": 100, "<llm's own>": 101}
    ssm = {**VOCAB, "<stop>": 100, "<padding>": 105}
    match = compare_vocabularies(token_checksums(llm), token_checksums(ssm))
    assert match.foreign_ids == {100, 101, 105}
    assert match.is_close


def test_a_token_whose_checksum_is_0_is_none_that_is_missing() -> None:
    assert zlib.crc32(b"") == 0
    assert token_checksums({"": 0, "b": 2})[:8] == b"\1\0\0\0\0\0\0\0"


@pytest.mark.parametrize(("num_changed", "is_close"), [(10, True), (11, False), (100, False)])
def test_a_tenth_may_differ(num_changed: int, is_close: bool) -> None:
    ssm = {(f"other {i}" if i < num_changed else token): i for token, i in VOCAB.items()}
    assert compare_vocabularies(token_checksums(VOCAB), token_checksums(ssm)).is_close is is_close


def test_a_part_of_a_vocabulary_is_not_the_whole() -> None:
    """A model of bytes shares its few tokens with many a larger one, and knows nothing of the others."""
    part = {token: i for token, i in VOCAB.items() if i < 50}
    assert not compare_vocabularies(token_checksums(VOCAB), token_checksums(part)).is_close
    assert not compare_vocabularies(token_checksums({}), token_checksums(VOCAB)).is_close


@given(st.data())
def test_a_tree_less_some_tokens_keeps_every_other_path(data: st.DataObject) -> None:
    size = data.draw(st.integers(1, 20))
    parents = (-1, *(data.draw(st.integers(0, node - 1)) for node in range(1, size)))
    tree = TokenTree(tuple(range(size)), parents, tuple(-0.5 * node for node in range(size)), tuple(range(size)))
    unknown = data.draw(st.sets(st.integers(1, 20)))
    kept = tree.of_tokens(lambda token_id: token_id not in unknown)
    kept.validated(vocab_size=20, max_num_nodes=20)
    assert _paths(kept) == {path for path in _paths(tree) if not unknown & set(path)}
    assert all((log_prob, source) == (-0.5 * t, t) for t, log_prob, source in _columns(kept))


def _columns(tree: TokenTree) -> list[tuple[int, float, int]]:
    return list(zip(tree.token_ids, tree.log_probs, tree.sources, strict=True))


def _paths(tree: TokenTree) -> set[tuple[int, ...]]:
    paths: list[tuple[int, ...]] = []
    for token_id, parent in zip(tree.token_ids, tree.parents, strict=True):
        paths.append((*paths[parent], token_id) if parent >= 0 else (token_id,))
    return set(paths)

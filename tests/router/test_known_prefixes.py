"""Where a session goes: to the replica that probably has its beginning, while load allows."""

from __future__ import annotations

import pytest

from router.known_prefixes import BLOCK_LEN, KnownPrefixes, blocks_of
from router.llm_replicas import LlmPool
from tests.router.generating import PROMPT, request_of, responses_to, token_ids_of
from tests.router.toy_services import ToyLlm
from tests.router.toy_suite import llm_server, toy_suite

TEXT = list(range(5 * BLOCK_LEN))
OTHER = [7, *TEXT[1:]]


def test_a_beginning_is_known_as_far_as_it_was_seen() -> None:
    known = KnownPrefixes()
    known.add(blocks_of(TEXT[: 3 * BLOCK_LEN + 5], ""))
    assert known.num_known(blocks_of(TEXT, "")) == 3 * BLOCK_LEN
    assert known.num_known(blocks_of(TEXT[: 2 * BLOCK_LEN], "")) == 2 * BLOCK_LEN
    assert known.num_known(blocks_of(OTHER, "")) == 0
    assert known.num_known(blocks_of(TEXT, "salt")) == 0
    known.clear()
    assert known.num_known(blocks_of(TEXT, "")) == 0


def test_ends_that_were_used_longest_ago_are_forgotten_first() -> None:
    known = KnownPrefixes()
    known.note_size(5 * BLOCK_LEN)
    known.add(blocks_of(TEXT, ""))
    known.add(blocks_of(OTHER[: 2 * BLOCK_LEN], ""))
    assert known.num_known(blocks_of(TEXT, "")) == 3 * BLOCK_LEN
    assert known.num_known(blocks_of(OTHER, "")) == 2 * BLOCK_LEN


@pytest.fixture
async def pool(monkeypatch: pytest.MonkeyPatch) -> LlmPool:
    """Two replicas that would take sessions."""
    pool = LlmPool(["unix:/nowhere/a.sock", "unix:/nowhere/b.sock"])
    for kind in ("takes_sessions", "is_usable"):
        monkeypatch.setattr(type(next(iter(pool.replicas))), kind, True)
    return pool


async def test_a_conversation_stays_where_its_beginning_is(pool: LlmPool) -> None:
    first, second = pool.replicas
    first.session_lens["busy"] = 2 * BLOCK_LEN
    assert await pool.place("s", 1.0, TEXT) is second
    pool.forget("s")
    second.session_lens["also busy"] = 5 * BLOCK_LEN
    assert await pool.place("other", 1.0, OTHER) is first
    pool.forget("other")
    assert await pool.place("s 2", 1.0, TEXT) is second
    pool.forget("s 2")
    assert await pool.place("salted", 1.0, TEXT, "salt") is first


async def test_it_moves_where_that_replica_has_much_more_to_do(pool: LlmPool) -> None:
    first, second = pool.replicas
    pool.note_text(second, TEXT, "")
    second.session_lens["busy"] = 6 * BLOCK_LEN
    assert await pool.place("s", 1.0, TEXT) is first


async def test_what_was_output_is_known_too() -> None:
    """Of a session that ended: its second turn begins with all of it."""
    server = llm_server(ToyLlm())
    other = llm_server(ToyLlm())
    addresses = (await server.start(), await other.start())
    async with toy_suite(llm_addresses=addresses) as suite:
        responses = await responses_to(suite, request_of())
        blocks = blocks_of([*PROMPT, *token_ids_of(responses)], "")
        known = sorted(replica.prefixes.num_known(blocks) for replica in suite.app.llms.replicas)
        assert known == [0, BLOCK_LEN]
    for started in (server, other):
        await started.stop(0)

"""What is promised of memory and turns: who is admitted gets on, the slots are looked at when idle, and short requests pass long ones."""

from __future__ import annotations

import random

import pytest

from llm_service.config import VerifierConfig
from llm_service.verifier import VerifierEngine
from specgrove.loop.works import Verdict
from specgrove.runtime.model_runner import ModelRunner
from tests.conftest import TINY_VOCAB_SIZE
from tests.llm.chats import Chat, run_chats
from tests.llm.verifying import GREEDY, PROMPT, Clock, ask, incremental, opening, run

LONG_LEN, CHUNK_LEN = 30_000, 256


@pytest.mark.parametrize("short_len", [1, 11, 75, CHUNK_LEN // 2])
def test_a_short_request_behind_a_very_long_prompt_has_its_token_within_two_passes(
    runner: ModelRunner, short_len: int
) -> None:
    """It comes while a pass of the long prompt is under way, which ends first."""
    rng = random.Random(short_len)
    long_prompt = [rng.randrange(TINY_VOCAB_SIZE) for _ in range(LONG_LEN)]
    short_prompt = [rng.randrange(TINY_VOCAB_SIZE) for _ in range(short_len)]
    config = VerifierConfig(max_model_len=LONG_LEN + 1, max_num_chunk_tokens=CHUNK_LEN)
    engine = VerifierEngine(ModelRunner(runner.decoder, 32_768), config)
    engine.add(1, opening("long", long_prompt))
    assert engine._begin_pass()
    engine.add(2, opening("short", short_prompt))
    results: list[int] = []
    num_passes = 0
    while not results:
        results += [item_id for item_id, result in engine.step() if isinstance(result, Verdict)]
        num_passes += 1
    assert results == [2]
    assert num_passes <= 2
    engine.check_slots()


def test_slots_for_a_third_of_the_load_are_enough_for_all(runner: ModelRunner) -> None:
    """A common system prompt, and as many slots as a third of the chats would need without sharing it: nobody fails."""
    rng = random.Random(6)
    system = [rng.randrange(TINY_VOCAB_SIZE) for _ in range(40)]
    prompts = [system + [rng.randrange(TINY_VOCAB_SIZE) for _ in range(20)] for _ in range(9)]
    alone = VerifierEngine(runner, VerifierConfig(max_model_len=200, has_prefix_cache=False))
    expected = [incremental(alone, prompt, 40, GREEDY) for prompt in prompts]
    num_slots = 9 * 100 // 3
    for has_prefix_cache in (True, False):
        config = VerifierConfig(max_model_len=200, has_prefix_cache=has_prefix_cache)
        engine = VerifierEngine(ModelRunner(runner.decoder, num_slots), config, Clock())
        chats = [Chat(f"s{i}", prompt, 40, num_nodes=6) for i, prompt in enumerate(prompts)]
        run_chats(engine, chats, expected, rng)
        assert [chat.failure for chat in chats] == [None] * 9
        assert [chat.output for chat in chats] == [output[:40] for output in expected]
        assert engine.num_free_slots == num_slots


def test_slots_are_looked_at_when_idle(runner: ModelRunner) -> None:
    """One that is lost, or owned twice, makes the engine begin anew; it is not looked for while nothing happens."""
    clock = Clock()
    engine = VerifierEngine(ModelRunner(runner.decoder, 100), VerifierConfig(max_model_len=100), clock)
    ask(engine, opening("s", PROMPT))
    clock.now_s = 11.0
    engine.expire_sessions()
    lost = engine._room._slots.allocate(1)
    clock.now_s = 22.0
    engine.expire_sessions()  # nothing was computed since
    ask(engine, opening("t", [7]))
    clock.now_s = 33.0
    with pytest.raises(RuntimeError, match=f"KV slots without an owner, or with two: {lost[0]} has 0"):
        engine.expire_sessions()
    engine.reset()
    engine.check_slots()
    engine.add(1, opening("u", PROMPT))
    assert isinstance(run(engine)[1], Verdict)
    engine._room._slots.free([engine._room.get("u").slots[0]])  # type: ignore[union-attr]
    with pytest.raises(RuntimeError, match="has 2"):
        engine.check_slots()

"""Memory pressure: nobody fails, nobody starves, outputs stay the incremental ones, and little is computed twice."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llm_service.config import VerifierConfig
from llm_service.counts import VerifierCounts
from llm_service.room import Room
from llm_service.session import Session
from llm_service.verifier import VerifierEngine
from specgrove.errors import InvalidRequestError
from specgrove.loop.token_tree import TokenTree
from specgrove.loop.works import Verdict, VerifyWork
from specgrove.runtime.model_runner import ModelRunner
from tests.conftest import TINY_VOCAB_SIZE
from tests.llm.chats import Chat, run_chats
from tests.llm.verifying import GREEDY, PROMPT, SAMPLED, Clock, incremental, opening, run


class TwoInFlight(ModelRunner):
    max_num_in_flight = 2


def prompts_of(rng: random.Random, lens: list[int]) -> list[list[int]]:
    return [[rng.randrange(TINY_VOCAB_SIZE) for _ in range(length)] for length in lens]


@pytest.mark.parametrize("num_nodes", [0, 16])
def test_eight_chats_where_three_find_room(runner: ModelRunner, num_nodes: int) -> None:
    rng = random.Random(1)
    prompts = prompts_of(rng, [47] * 8)
    alone = VerifierEngine(runner, VerifierConfig(max_model_len=300))
    expected = [incremental(alone, prompt, 48, GREEDY) for prompt in prompts]
    engine = VerifierEngine(ModelRunner(runner.decoder, 300), VerifierConfig(max_model_len=300), Clock())
    chats = [Chat(f"s{i}", prompt, 48, num_nodes, num_steps=1 if num_nodes else 8) for i, prompt in enumerate(prompts)]
    run_chats(engine, chats, expected, rng)
    assert [chat.output for chat in chats] == expected
    assert engine.num_free_slots == 300
    num_needed_rows = 8 * (47 + 48 * (num_nodes + 1))
    assert engine.counts.num_rows < 1.25 * num_needed_rows


@settings(max_examples=15, deadline=None)
@given(data=st.data())
def test_any_chats_in_any_pool_end_with_the_incremental_output(runner: ModelRunner, data: st.DataObject) -> None:
    rng = random.Random(data.draw(st.integers(0, 2**32)))
    num_slots = data.draw(st.integers(20, 120))
    lens = data.draw(st.lists(st.integers(1, num_slots // 2), min_size=2, max_size=7))
    prompts = prompts_of(rng, lens)
    nums_tokens = [rng.randrange(1, num_slots - length) for length in lens]
    samplings = [rng.choice([GREEDY, replace(SAMPLED, seed=i, stop_token_ids=())]) for i in range(len(lens))]
    alone = VerifierEngine(runner, VerifierConfig(max_model_len=200))
    expected = [incremental(alone, *case) for case in zip(prompts, nums_tokens, samplings, strict=True)]
    expected = [output[:number] for output, number in zip(expected, nums_tokens, strict=True)]
    chats = [
        Chat(f"s{i}", prompts[i], nums_tokens[i], *rng.choice([(0, 1), (0, 7), (5, 1), (16, 1)]), samplings[i])
        for i in range(len(lens))
    ]
    clock = Clock()
    config = VerifierConfig(max_model_len=num_slots, max_num_chunk_tokens=rng.choice([4, 64]), stream_interval_s=0.05)
    kind = rng.choice([ModelRunner, TwoInFlight])
    engine = VerifierEngine(kind(runner.decoder, num_slots), config, clock)
    run_chats(engine, chats, expected, rng, clock, pause=rng.choice([0.0, 0.3, 0.9]))
    assert [chat.failure for chat in chats] == [None] * len(chats)
    assert [chat.output for chat in chats] == expected
    assert engine.num_free_slots == num_slots


def test_the_youngest_gives_way_and_goes_on_from_its_own_tokens(runner: ModelRunner) -> None:
    """Without a word from its router, which is told of nothing."""
    engine = VerifierEngine(ModelRunner(runner.decoder, 60), VerifierConfig(max_model_len=60, stream_interval_s=1.0))
    prompts = prompts_of(random.Random(3), [20, 20])
    alone = VerifierEngine(runner, VerifierConfig(max_model_len=200))
    expected = [incremental(alone, prompt, 30, GREEDY) for prompt in prompts]
    for item_id, prompt in enumerate(prompts):
        engine.add(item_id, replace(opening(f"s{item_id}", prompt), num_steps=30))
    found: list[list[int]] = [[], []]
    while len(found[0]) < 30:
        for item_id, verdict in engine.step():
            assert isinstance(verdict, Verdict), verdict
            found[item_id].extend(verdict.token_ids)
    assert 5 < len(found[1]) < 15  # what it had was sent on before it had to wait
    assert engine.step() == []
    assert not engine.has_work()
    engine.close_session("s0")
    while len(found[1]) < 30:
        for item_id, verdict in engine.step():
            assert item_id == 1
            assert isinstance(verdict, Verdict), verdict
            found[1].extend(verdict.token_ids)
    assert found == expected


def test_nobody_overtakes_who_waits_for_room(runner: ModelRunner) -> None:
    engine = VerifierEngine(ModelRunner(runner.decoder, 100), VerifierConfig(max_model_len=100))
    engine.add(1, opening("first", [1] * 60))
    engine.add(2, opening("long", [2] * 60))
    engine.add(3, opening("short", [3] * 10))
    assert list(run(engine)) == [1]
    engine.close_session("first")
    assert sorted(run(engine)) == [2, 3]


def test_an_open_session_keeps_its_slots_however_long_it_is_idle(runner: ModelRunner) -> None:
    """Its client may be slow. Nobody younger takes them, and what comes next for it is computed at once."""
    clock = Clock()
    engine = VerifierEngine(ModelRunner(runner.decoder, 100), VerifierConfig(max_model_len=100), clock)
    prompts = prompts_of(random.Random(4), [60, 60])
    first = run_one(engine, 1, opening("old", prompts[0]))
    clock.now_s = 200.0
    engine.add(2, opening("young", prompts[1]))
    assert run(engine) == {}
    num_rows = engine.counts.num_rows
    root = first.token_ids[-1]
    run_one(engine, 3, VerifyWork("old", len(prompts[0]) + 1, (), TokenTree.of_root(root)))
    assert engine.counts.num_rows == num_rows + 1
    assert engine.counts.num_preemptions == 0
    engine.close_session("old")
    assert list(run(engine)) == [2]


def run_one(engine: VerifierEngine, item_id: int, work: VerifyWork) -> Verdict:
    engine.add(item_id, work)
    verdict = run(engine)[item_id]
    assert isinstance(verdict, Verdict)
    return verdict


def test_what_can_never_fit_is_refused_with_the_numbers(runner: ModelRunner) -> None:
    engine = VerifierEngine(ModelRunner(runner.decoder, 40), VerifierConfig(max_model_len=200))
    with pytest.raises(InvalidRequestError, match="41 tokens need as many KV slots; the service has 40"):
        engine.add(1, opening("s", [1] * 41))
    with pytest.raises(InvalidRequestError, match="42 tokens need as many KV slots; the service has 40"):
        engine.add(1, replace(opening("s", [1] * 38), num_steps=5))
    assert engine.num_sessions == 0
    engine.add(1, opening("s", [1] * 40))
    assert isinstance(run(engine)[1], Verdict)


def test_the_step_loop_does_not_spin_while_all_wait(runner: ModelRunner) -> None:
    engine = VerifierEngine(ModelRunner(runner.decoder, 40), VerifierConfig(max_model_len=40), Clock())
    engine.add(1, opening("first", PROMPT * 3))
    run(engine)
    engine.add(2, opening("second", PROMPT[::-1] * 3))
    assert engine.has_work()
    assert engine.step() == []
    assert not engine.has_work()
    engine.expire_sessions()  # about once a second
    assert engine.has_work()


class Held(Room):
    """A room of sessions in order of their age; all but those that wait have slots for all tokens but the root."""

    def __init__(self, num_slots: int, waiting: str, **nums_tokens: int) -> None:
        self.counts = VerifierCounts()
        super().__init__(num_slots, self.counts)
        self.sessions: dict[str, Session] = {}
        for name, num_tokens in nums_tokens.items():
            session = self.sessions[name] = Session(name, GREEDY, num_tokens)
            session.extend(tuple(range(num_tokens)))
            self.open(session, None)
            if name not in waiting:
                session.is_admitted = True
                session.slots.extend(self._slots.allocate(num_tokens - 1))

    @property
    def admitted(self) -> str:
        return "".join(session.session_id for session in self if session.is_admitted)


def admit(room: Held, name: str, *, in_flight: str = "") -> None:
    """``in_flight`` names sessions by a letter each."""
    room.admit([room.sessions[name]], set(in_flight))


def test_nobody_gives_way_in_vain() -> None:
    """The oldest keeps so much that what all younger ones have would not do."""
    room = Held(100, "b", a=60, b=35, c=4, d=4)
    admit(room, "b")
    assert room.take(room.sessions["b"], 42, "") is None
    assert room.admitted == "acd"
    assert [len(room.sessions[name].slots) for name in "acd"] == [59, 3, 3]


def test_no_more_give_way_than_it_takes_and_the_youngest_first() -> None:
    room = Held(100, "a", a=40, b=20, c=20, d=4)
    admit(room, "a")
    assert room.admitted == "abc"
    assert room.counts.num_preemptions == 1
    room.drop(room.sessions["b"])  # one that ends gives way to nobody
    assert room.counts.num_preemptions == 1


def test_an_older_session_waits_for_passes_under_way() -> None:
    """It takes the slots of both: those of a pass under way after it, the others at once."""
    room = Held(100, "b", a=20, b=60, c=15, d=15)
    admit(room, "b", in_flight="d")
    assert room.admitted == "ad"
    admit(room, "b")
    assert room.admitted == "ab"


def test_a_pass_under_way_is_not_waited_for_where_others_have_enough() -> None:
    room = Held(100, "a", a=40, b=20, c=20, d=4)
    admit(room, "a", in_flight="d")
    assert room.admitted == "abd"

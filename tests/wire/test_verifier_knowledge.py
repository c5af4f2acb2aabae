"""What a drafter may know of the verifier keeps all it says on the wire, and what contradicts itself is refused by name."""

from __future__ import annotations

from dataclasses import replace

import pytest

from specgrove.errors import InvalidRequestError
from specgrove.loop.request import SamplingParams
from specgrove.loop.token_tree import TokenTree
from specgrove.loop.verifier_knowledge import DraftSampling, HiddenStates, RowTopK, joined
from specgrove.loop.works import DraftWork, PromptProgress, SessionParams, TreeShape, Verdict, VerifyWork
from specgrove.v1 import llm_pb2, ssm_pb2
from specgrove.wire import works
from specgrove.wire.drafts import draft_work_from_proto, draft_work_to_proto

# Three rows of two layers, hidden size 2: 8 bytes a row, 4 of a layer.
STATES = HiddenStates(4, 3, (2, 7), bytes(range(24)))
TOP_K = (RowTopK(4, 11, ((3, -0.25), (9, -1.5))), RowTopK(5, 3, ()))


def test_a_drafter_is_told_all() -> None:
    work = DraftWork(
        "s", 0, (1, 2), TreeShape(4, 2), sampling=DraftSampling(0.5, 2**64 - 1, 40, 0.0), hidden_states=STATES,
        row_top_k=TOP_K,
    )  # fmt: skip
    assert draft_work_from_proto(draft_work_to_proto(work, 1)) == work
    bare = DraftWork("s", 0, (1, 2), TreeShape(4, 2))
    assert draft_work_from_proto(draft_work_to_proto(bare, 1)) == bare


def test_older_routers_and_greedy_sessions_are_greedy() -> None:
    assert draft_work_from_proto(ssm_pb2.DraftItem()).sampling is None
    assert draft_work_from_proto(ssm_pb2.DraftItem(sampling={"temperature": 0.0, "seed": 5})).sampling is None
    unset = draft_work_from_proto(ssm_pb2.DraftItem(sampling={"temperature": 0.5})).sampling
    assert unset == DraftSampling(0.5, 0, 0, 1.0)


def test_a_verifier_is_asked_and_answers_with_all() -> None:
    params = SessionParams(SamplingParams(), 3, hidden_layers=(0, 2, 7), hidden_window=512, num_row_top_k=8)
    work = VerifyWork("s", 0, (1, 2, 3), TokenTree.of_root(3), params)
    assert works.verify_work_from_proto(works.verify_work_to_proto(work, 1)) == work
    verdict = Verdict(5, (1, 2, 3), (1, 2), hidden_states=STATES, row_top_k=TOP_K)
    assert works.verdict_from_proto(works.verdict_to_proto(verdict)) == verdict
    progress = PromptProgress(7, hidden_states=STATES)
    assert works.progress_from_proto(works.progress_to_proto(progress)) == progress


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"num_tokens": 0, "layers": [1], "values": b"ab"}, "hidden_states: it must have a row"),
        ({"num_tokens": 1, "layers": [], "values": b"ab"}, "hidden_states: its layers must be named"),
        ({"num_tokens": 1, "layers": [2, 2], "values": b"abcd"}, r"layers: layers must rise, got \[2, 2\]"),
        ({"num_tokens": 1, "layers": range(65), "values": b"ab"}, "layers: has 65 elements; at most 64"),
        ({"num_tokens": 1, "layers": [1], "values": b""}, "hidden_states: 0 bytes can't be 1 rows of 1 layers"),
        ({"num_tokens": 2, "layers": [1, 2], "values": b"abcdefghi"}, "9 bytes can't be 2 rows of 2 layers: a multiple of 8"),
    ],
)  # fmt: skip
def test_hidden_states_that_contradict_themselves_are_refused(fields, message) -> None:  # type: ignore[no-untyped-def]
    for read, proto in (
        (draft_work_from_proto, ssm_pb2.DraftItem(hidden_states=fields)),
        (works.verdict_from_proto, llm_pb2.Verdict(hidden_states=fields)),
        (works.progress_from_proto, llm_pb2.PromptProgress(hidden_states=fields)),
    ):
        with pytest.raises(InvalidRequestError, match=message):
            read(proto)  # type: ignore[operator]


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"hidden_layers": range(65)}, "session.hidden_layers"),
        ({"hidden_layers": [3, 1]}, "session.hidden_layers"),
        ({"hidden_window": 8193}, "session.hidden_window"),
        ({"num_row_top_k": 33}, "session.num_row_top_k"),
    ],
)
def test_what_a_session_asks_for_has_bounds(fields, field) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(InvalidRequestError) as info:
        works.verify_work_from_proto(llm_pb2.VerifyItem(session=fields))
    assert info.value.violations[0].field == field


@pytest.mark.parametrize("sampling", [{"temperature": float("nan")}, {"temperature": -1}, {"top_p": 2}])
def test_how_a_session_samples_has_ranges(sampling) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(InvalidRequestError, match=r"sampling\.\w+: must be in "):
        draft_work_from_proto(ssm_pb2.DraftItem(sampling=sampling))


@pytest.mark.parametrize(
    "rows", [[{}] * 4097, [{"top_token_ids": [1]}], [{"top_token_ids": [1] * 33, "top_log_probs": [0] * 33}]]
)
def test_top_k_of_rows_has_bounds(rows) -> None:  # type: ignore[no-untyped-def]
    for read, proto in (
        (draft_work_from_proto, ssm_pb2.DraftItem(row_top_k=rows)),
        (works.verdict_from_proto, llm_pb2.Verdict(row_top_k=rows)),
    ):
        with pytest.raises(InvalidRequestError, match="row_top_k: "):
            read(proto)  # type: ignore[operator]


def test_rows_and_layers_are_cut_and_put_together() -> None:
    assert (STATES.end_position, STATES.row_bytes, STATES.hidden_size) == (7, 8, 2)
    assert STATES.newest(2) == STATES.from_position(5) == HiddenStates(5, 2, (2, 7), bytes(range(8, 24)))
    assert STATES.newest(9) is STATES.from_position(1) is STATES
    assert STATES.before(5) == HiddenStates(4, 1, (2, 7), bytes(range(8)))
    assert STATES.before(4) is None
    late = STATES.of_layers((7,))
    assert late == HiddenStates(4, 3, (7,), bytes([*range(4, 8), *range(12, 16), *range(20, 24)]))
    with pytest.raises(ValueError, match="not in"):
        STATES.of_layers((3,))
    head, tail = STATES.before(6), STATES.from_position(6)
    assert head is not None
    assert joined((None, head, None, tail)) == STATES
    assert joined((head, STATES.from_position(5))) == STATES  # rows that are told twice count once
    gap = replace(tail, first_position=9)
    assert joined((head, gap)) is gap
    assert joined((head, late)) is late
    assert joined((None, None)) is None


def test_verdicts_of_several_steps_keep_the_rows_of_all() -> None:
    first = Verdict(5, (1,), (), has_more=True, hidden_states=STATES.before(5), row_top_k=TOP_K[:1])
    second = Verdict(6, (2, 3), (), hidden_states=STATES.from_position(5), row_top_k=TOP_K[1:])
    both = first.joined(second)
    assert both.hidden_states == STATES
    assert both.row_top_k == TOP_K

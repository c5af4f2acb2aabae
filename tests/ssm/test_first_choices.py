"""The test that an SSM is wired as it was trained: shares of right first choices against a floor."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from specgrove.loop.works import Draft, DraftWork, TreeShape
from specgrove.models.hidden_state.module import HiddenStateModule
from ssm_service.config import PoolConfig
from ssm_service.first_choices import NUM_OF_SESSION, NUM_TESTED, FirstChoices
from ssm_service.hidden_state import HiddenStateSsm
from ssm_service.pool import DrafterPool
from tests.models.hidden_state.tiny_ssms import random_module
from tests.ssm.hidden_states import make_ssm, message, toy_ends, toy_hidden_states
from tests.ssm.pools import ask

SHAPE = TreeShape(max_num_nodes=1, max_depth=1)


def _told(choices: FirstChoices, num_right: int) -> FirstChoices:
    for place in range(NUM_TESTED):
        choices.add(is_right=place < num_right)
    return choices


def test_below_the_floor_an_ssm_is_left_out(caplog: pytest.LogCaptureFixture) -> None:
    assert not _told(FirstChoices("good", 0.25), NUM_TESTED // 4).is_left_out
    assert not caplog.messages
    assert _told(FirstChoices("bad", 0.25), NUM_TESTED // 4 - 1).is_left_out
    assert "SSM bad is left out for 4096 drafts, then tested again: 0.246 of its first choices" in caplog.text


def test_what_is_left_out_is_tested_again_and_after_each_failure_later() -> None:
    choices = FirstChoices("bad", 0.25)
    for num_drafts in (4096, 8192, 16_384):
        _told(choices, 0)
        assert [choices.takes_part() for _ in range(num_drafts)] == [False] * num_drafts
        assert choices.takes_part()
    assert not _told(choices, NUM_TESTED).is_left_out
    assert not _told(choices, 0).is_left_out, "it has passed"


def test_sessions_with_rules_that_an_ssm_is_not_told_are_not_counted() -> None:
    ssm = make_ssm(random_module(hidden_window=64), toy_ends())
    assert isinstance(ssm, HiddenStateSsm)
    pool, states = DrafterPool([ssm], PoolConfig()), toy_hidden_states(98)
    for has_other_rules in (True, False):
        first = message(states, 0, 9)
        work = DraftWork("s", 0, tuple(range(10)), SHAPE, hidden_states=first, has_other_rules=has_other_rules)
        for length in range(10, 14):
            ask(pool, work)
            rows = message(states, length - 1, length)
            work = DraftWork("s", length, (length,), SHAPE, hidden_states=rows)
        assert ssm.first_choices.num_tested == (0 if has_other_rules else 3)


def test_one_session_does_not_decide() -> None:
    ssm = make_ssm(random_module(hidden_window=64), toy_ends())
    assert isinstance(ssm, HiddenStateSsm)
    ssm.first_choices = FirstChoices("hidden", 1.0)
    pool, states = DrafterPool([ssm], PoolConfig()), toy_hidden_states(98)
    for session in range(3):
        work = DraftWork(f"s{session}", 0, tuple(range(10)), SHAPE, hidden_states=message(states, 0, 9))
        for length in range(10, 40):
            ask(pool, work)
            rows = message(states, length - 1, length)
            work = DraftWork(f"s{session}", length, (length,), SHAPE, hidden_states=rows)
        assert ssm.first_choices.num_tested == NUM_OF_SESSION * (session + 1)


def test_a_floor_that_is_not_told_is_measured_once(tmp_path: Path) -> None:
    path = tmp_path / "first_choices" / "ssm.json"
    assert not _told(FirstChoices("ssm", None, path), NUM_TESTED // 2).is_left_out
    assert json.loads(path.read_text())["first_choice_floor"] == 0.25
    assert _told(FirstChoices("ssm", None, path), NUM_TESTED // 5).is_left_out
    assert json.loads(path.read_text())["first_choice_floor"] == 0.25


def test_what_is_hardly_ever_right_sets_no_floor(tmp_path: Path) -> None:
    assert _told(FirstChoices("ssm", None, tmp_path / "ssm.json"), NUM_TESTED // 20).is_left_out
    assert not (tmp_path / "ssm.json").exists()


@pytest.mark.parametrize("content", ["{}", '{"first_choice_floor": 7}', '{"first_choice_floor": -1}'])
def test_a_broken_record_is_measured_anew(content: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "ssm.json").write_text(content)
    assert FirstChoices("ssm", None, tmp_path / "ssm.json").floor is None
    assert "measured anew" in caplog.text


def _wired(module: HiddenStateModule) -> HiddenStateModule:
    """Proposes what its last hidden state says: the next token's embedding."""
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            if "norm" not in name:
                parameter.zero_()
            else:
                parameter.fill_(1.0)
        module.fc.weight[:, 2 * 64 :] = torch.eye(64)
    return module


@pytest.mark.parametrize("wrong", ["nothing", "layers", "tensors"])
def test_wrong_wiring_is_caught(wrong: str, caplog: pytest.LogCaptureFixture) -> None:
    """A toy LLM whose text follows from its hidden states, and an SSM that knows how: right but where it is wired wrongly."""
    changes = {
        "input_norms": "each",
        "has_embedding_residual": False,
        "has_fed_back_map": False,
        "candidate_rank": None,
    }
    module, ends = _wired(random_module(hidden_window=64, **changes)), toy_ends()
    if wrong == "tensors":
        module.fc.weight.data = module.fc.weight.data.roll(64, dims=1)
    ssm = make_ssm(module, ends)
    ssm.first_choices = FirstChoices("hidden", 0.5, num_wanted=30)
    pool = DrafterPool([ssm], PoolConfig())
    assert isinstance(ssm, HiddenStateSsm)
    tokens = torch.randint(0, 120, (100,), generator=torch.Generator().manual_seed(1)).tolist()
    states = toy_hidden_states(98)
    states[:, 0 if wrong == "layers" else 2] = ends.embedding[tokens[2:]].bfloat16()  # pair i tells of token i + 2
    num_trees = 0
    for session in range(2):
        work = DraftWork(f"s{session}", 0, tuple(tokens[:10]), SHAPE, hidden_states=message(states, 0, 9))
        for length in range(10, 40):
            draft = ask(pool, work)
            assert isinstance(draft, Draft)
            num_trees += len(draft.trees)
            rows = message(states, length - 1, length)
            work = DraftWork(f"s{session}", length, (tokens[length],), SHAPE, hidden_states=rows)
    assert ssm.first_choices.is_left_out == (wrong != "nothing")
    assert (num_trees == 2 * 30) == (wrong == "nothing")

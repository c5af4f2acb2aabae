"""Which SSMs a suite starts with: those asked for must fit the LLM, defaults that do not are left out."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from specgrove.settings.ssm_specs import SHIPPED_DRAFTERS
from specgrove.suite.ssm_choice import chosen_ssms
from tests.conftest import save_tiny_llama


def with_tokenizer(folder: Path, *extra: str) -> Path:
    save_tiny_llama(folder, seed=0)
    vocab = {token: index for index, token in enumerate((*(f"t{number}" for number in range(50)), *extra))}
    model = {"type": "WordLevel", "vocab": vocab, "unk_token": "t0"}
    (folder / "tokenizer.json").write_text(json.dumps({"version": "1.0", "model": model}))
    return folder


@pytest.fixture
def llm(tmp_path: Path) -> Path:
    return with_tokenizer(tmp_path / "llm")


def choose(asked: list[str] | None, llm: Path) -> tuple[tuple[str, ...], list[str]]:
    said: list[str] = []
    return chosen_ssms(asked, llm, llm.parent / "cache", said.append), said


def test_a_default_that_does_not_fit_is_left_out_with_one_line(llm: Path) -> None:
    chosen, said = choose(None, llm)
    assert chosen == ("lookup",)
    assert said == ["SSM demo is left out: it was made for another model's tokenizer"]


def test_one_that_was_asked_for_and_does_not_fit_is_an_error(llm: Path) -> None:
    with pytest.raises(ValueError, match="--ssm demo: it can't draft for llm: it was made for another model"):
        choose(["lookup", "demo"], llm)


def test_one_with_another_tokenizer_is_told_how_far_it_is_off(llm: Path, tmp_path: Path) -> None:
    other = with_tokenizer(tmp_path / "other")
    (other / "tokenizer.json").write_text((other / "tokenizer.json").read_text().replace('"t', '"u'))
    with pytest.raises(ValueError, match="its tokenizer has 0 of the LLM's 50 tokens"):
        choose([str(other)], llm)


def test_one_with_nearly_the_same_tokenizer_is_taken(llm: Path, tmp_path: Path) -> None:
    padded = with_tokenizer(tmp_path / "padded", "<extra>")
    assert choose([f"{padded},width=2"], llm) == ((f"{padded},width=2",), [])


def test_none_is_no_ssm(llm: Path) -> None:
    assert choose(["none"], llm) == ((), [])
    with pytest.raises(ValueError, match="no other"):
        choose(["none", "lookup"], llm)


@pytest.mark.parametrize(("ssm", "message"), [("nope/x/y", "is not there"), ("demo,width=0", "from 1 to 64")])
def test_what_is_no_ssm_is_told_before_anything_starts(llm: Path, ssm: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        choose([ssm], llm)


def test_the_shipped_drafter_is_there() -> None:
    assert (SHIPPED_DRAFTERS["demo"] / "config.json").is_file()

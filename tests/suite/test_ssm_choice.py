"""Which SSMs a suite starts with: those asked for must fit the LLM, defaults that do not are left out."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from specgrove.config import DEFAULT_SSMS_ON_CPU
from specgrove.settings import SuiteSettings
from specgrove.settings.ssm_specs import SHIPPED_DRAFTERS, parse_ssms
from specgrove.suite import ssm_choice
from specgrove.suite.ssm_choice import chosen_ssms, default_ssms
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
    said: list[str] = []
    groups = (("lookup",), ("demo-hidden", "demo"))
    assert chosen_ssms(None, llm, llm.parent / "cache", said.append, defaults=groups) == ("lookup",)
    assert said == ["SSM demo is left out: it was made for another model"]


def test_the_next_default_is_taken_where_the_llm_has_other_hidden_states(demo_llm: Path, tmp_path: Path) -> None:
    """As of a larger model with the demo LLM's tokenizer."""
    folder = save_tiny_llama(tmp_path / "larger", seed=0, vocab_size=49_152)
    for file in demo_llm.glob("*token*"):
        shutil.copy(file, folder)
    said: list[str] = []
    groups = (("lookup",), ("demo-hidden", "demo"))
    assert chosen_ssms(None, folder, tmp_path / "cache", said.append, defaults=groups) == ("lookup", "demo")
    assert said == []


@pytest.mark.parametrize(
    ("given", "has_gpu", "expected"),
    [
        ({"device": "cpu"}, True, ("demo-hidden", "demo")),
        ({"device": "cuda"}, False, ("demo",)),
        ({}, True, ("demo",)),
        ({}, False, ("demo-hidden", "demo")),
        ({"pipeline-parallel": (2,)}, False, ("demo",)),
        ({"quantization": "int8"}, False, ("demo",)),
    ],
)
def test_the_defaults_are_those_of_the_device(
    given: dict[str, object], has_gpu: bool, expected: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ssm_choice, "may_have_gpu", lambda: has_gpu)
    settings = SuiteSettings({("llm", name): value for name, value in given.items()})
    lookup, others = default_ssms(settings)
    assert lookup == ("lookup",)
    assert tuple(spec.name for spec in parse_ssms(others)) == expected


def test_the_defaults_on_a_cpu_fit_the_demo_llm(demo_llm: Path) -> None:
    said: list[str] = []
    defaults = default_ssms(SuiteSettings({("llm", "device"): "cpu"}))
    assert chosen_ssms(None, demo_llm, demo_llm.parent, said.append, defaults=defaults) == DEFAULT_SSMS_ON_CPU
    assert said == []


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


@pytest.mark.parametrize("name", sorted(SHIPPED_DRAFTERS))
def test_a_shipped_drafter_is_there(name: str) -> None:
    assert (SHIPPED_DRAFTERS[name] / "config.json").is_file()

"""What is found of the models that a suite would be started with."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from specgrove.doctor import models
from specgrove.doctor.findings import Finding, Level
from specgrove.models.planning import fitting
from specgrove.settings import SuiteSettings
from tests.conftest import save_tiny_llama
from tests.router.toy_language import VOCAB_SIZE, toy_tokenizer_json


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = save_tiny_llama(tmp_path_factory.mktemp("tiny"), seed=0, vocab_size=VOCAB_SIZE)
    (made / "tokenizer.json").write_bytes(toy_tokenizer_json())
    return made


def settings(model: Path | str, cache: Path, **more: object) -> SuiteSettings:
    given = {("llm", "model"): str(model), ("llm", "cache-dir"): cache, ("ssm", "cache-dir"): cache}
    return SuiteSettings(given | {("llm", name.replace("_", "-")): value for name, value in more.items()})


def by_area(findings: list[Finding]) -> dict[str, Finding]:
    return {finding.area: finding for finding in findings}


def test_a_model_that_can_be_served(folder: Path, tmp_path: Path) -> None:
    found = by_area(list(models.llm(settings(folder, tmp_path, kv_slots=64))))
    assert found["LLM"].level is Level.OK
    assert "llama" in found["LLM"].text
    assert found["fits"].level is Level.OK
    assert "64 KV slots" in found["fits"].text
    assert found["tokenizer"].text == "257 token ids, with a chat template"


def test_one_that_does_not_fit_is_told_with_what_would(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fitting, "available_memory_bytes", lambda: 64 << 20)
    found = by_area(list(models.llm(settings(folder, tmp_path, kv_slots=10_000_000))))
    assert found["fits"].level is Level.ERROR
    assert "and 0.06 GiB available" in found["fits"].text
    assert "what would fit: --kv-slots " in found["fits"].text


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"max_model_len": 999_999}, "--max-model-len 999999 is more than the model's "),
        ({"pipeline_parallel": (99,)}, "--pipeline-parallel 99: must be 1 to "),
        ({"pipeline_parallel": (98, 1)}, "--pipeline-parallel: 2 stages with 99 layers together; the model has "),
        ({"tensor_parallel": 99}, "--tensor-parallel 99: so many ranks can't share "),
    ],
)
def test_what_the_service_would_refuse_is_an_error(
    given: dict[str, object], said: str, folder: Path, tmp_path: Path
) -> None:
    found = by_area(list(models.llm(settings(folder, tmp_path, **given))))["fits"]
    assert (found.level, found.text[: len(said)]) == (Level.ERROR, said)
    assert len(found.text) < 120


def test_ssms_that_do_not_fit_are_an_error(folder: Path, tmp_path: Path) -> None:
    asked = {("ssm", "ssm"): [str(folder)], ("ssm", "kv-slots"): 10**12, ("ssm", "device"): "cpu"}
    can_draft, fits = models.ssms(SuiteSettings({**settings(folder, tmp_path).given, **asked}))
    assert (can_draft.level, fits.level) == (Level.OK, Level.ERROR)
    assert "give --ssm.kv-slots" in fits.text


def test_what_is_not_here_is_not_fetched(tmp_path: Path) -> None:
    (demo,) = models.llm(settings("smollm2-135m-instruct", tmp_path))
    assert (demo.level, "models download" in demo.text) == (Level.WARNING, True)
    (absent,) = models.llm(settings("/no/such/folder", tmp_path))
    assert (absent.level, absent.text) == (
        Level.ERROR,
        "/no/such/folder is not there: give a model folder, a .gguf file or a hub id",
    )
    (hub,) = models.llm(settings("nobody/no-such-model", tmp_path))
    assert (hub.level, "is not on this machine: it is fetched at the first start" in hub.text) == (Level.WARNING, True)
    assert not list(tmp_path.iterdir())


def test_a_damaged_model_is_an_error(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text((folder / "config.json").read_text())
    (found,) = models.llm(settings(tmp_path, tmp_path / "cache"))
    assert found.level is Level.ERROR
    assert "can't be served" in found.text


@pytest.mark.parametrize("content", [None, "{"])
def test_an_llm_without_a_tokenizer_that_can_be_read_is_told_with_the_default_ssms(
    content: str | None, folder: Path, tmp_path: Path
) -> None:
    broken = Path(shutil.copytree(folder, tmp_path / "broken"))
    (broken / "tokenizer.json").unlink()
    if content is not None:
        (broken / "tokenizer.json").write_text(content)
    found = list(models.ssms(settings(broken, tmp_path)))
    assert [(finding.area, finding.level) for finding in found] == [("SSM", Level.WARNING)] * 2


def test_ssms_are_compared_with_the_llm(folder: Path, tmp_path: Path) -> None:
    chosen = settings(folder, tmp_path)
    lookup, demo = models.ssms(chosen)  # the defaults
    assert (lookup.level, lookup.text) == (Level.OK, f"lookup can draft for {folder.name}")
    assert (demo.level, "it is left out" in demo.text) == (Level.WARNING, True)
    asked = SuiteSettings({**chosen.given, ("ssm", "ssm"): ["demo", "lookup,width=3", "/nowhere", str(folder)]})
    other, wrong, nowhere, same = models.ssms(asked)
    assert [found.level for found in (other, wrong, nowhere, same)] == [Level.ERROR, Level.ERROR, Level.ERROR, Level.OK]
    assert "can't draft for" in other.text
    assert "lookup has no option but corpus, name, store" in wrong.text
    (none,) = models.ssms(SuiteSettings({**chosen.given, ("ssm", "ssm"): ["none"]}))
    assert none.text == "none: decoding is incremental"

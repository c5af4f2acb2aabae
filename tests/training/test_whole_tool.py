"""``specgrove ssm train`` and ``evaluate`` from a tiny LLM to a folder that is served, and on from that folder."""

from __future__ import annotations

from pathlib import Path

import pytest

from specgrove.models.hidden_state.own_folder import load_own_folder
from specgrove.training import (
    decoder_stage,
    recording,
)
from tests.training.test_stages import run, save_target


@pytest.mark.parametrize("variant", ["llama", "gemma3"])
def test_the_whole_tool(
    variant: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def run_parts(part: object, parts: list[tuple[object, ...]]) -> None:
        for arguments in parts:
            part(*arguments)  # type: ignore[operator]

    for module in (decoder_stage, recording):
        monkeypatch.setattr(module, "run_all", run_parts)
    monkeypatch.setattr(recording, "EVALUATION_PROMPTS", recording.EVALUATION_PROMPTS[:6])
    llm = save_target(tmp_path / "llm", variant)
    out = tmp_path / "ssm"
    wanted = ("--num-tokens", 600, "--passes", 1.5, "--boost", 2, "--answer-len", 6)
    assert run("train", llm, "--out", out, *wanted) == 0
    told = capsys.readouterr()
    assert "tokens per verification of  8 rows" in told.out
    assert "SSM 2: those before it are right in" in told.err
    for folder in (out, tmp_path / "ssm-2"):
        spec = load_own_folder(folder).spec
        assert spec.hidden_layers[-1] == 3
        assert spec.vocab_sha256
        assert spec.first_choice_floor is not None
        assert "tokens per verification" in (folder / "README.md").read_text()
    assert run("evaluate", llm, "--ssm", out, "--num-prompts", 2, "--answer-len", 6) == 0
    assert "first choice right" in capsys.readouterr().out
    if variant != "llama":
        return
    again = ("--outputs", out / "outputs.npz", "--start", out, "--num-tokens", 1, "--passes", 0.2, "--answer-len", 6)
    monkeypatch.setattr(recording, "run_all", None)  # nothing is generated
    assert run("train", llm, "--out", tmp_path / "third", *again) == 0
    assert "closed form" not in capsys.readouterr().err
    assert (tmp_path / "third" / "outputs.npz").stat().st_size == (out / "outputs.npz").stat().st_size
    assert run("train", llm, "--out", tmp_path / "third", *again, "--hidden-layers", 3) == 1
    assert "of another shape, or reads other layers" in capsys.readouterr().err

"""The stages of distillation from end to end on tiny LLMs, and what they refuse before anything slow begins."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import tokenizers
import torch

from specgrove.tokenizer import Tokenizer
from specgrove.training import shards, stages
from specgrove.training.cli import main
from specgrove.training.prompts import OPENERS, DialogueSource, read_prompts
from specgrove.training.target import claim_data_folder, head_rows, open_target
from ssm_service.loading import read_draft_vocab
from tests.models.families import VOCAB_SIZE, save_tiny
from tests.models.quantized_folders import edit_config

TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}<{{ m.role }}>{{ m.content }}</s>{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)
SMALL = ["--hidden-size", "16", "--intermediate-size", "24", "--num-layers", "1", "--draft-vocab-size", "40"]


def save_target(folder: Path, variant: str = "llama", template: str | None = TEMPLATE) -> Path:
    """A tiny LLM with a tokenizer whose every letter is a token; BOS is added by the post-processor too."""
    torch.manual_seed(0)
    save_tiny(variant, folder)
    edit_config(folder, max_position_embeddings=512, eos_token_id=2)
    letters = [chr(code) for code in range(32, 32 + VOCAB_SIZE - 7)]
    vocab = {
        token: i
        for i, token in enumerate(["<pad>", "<s>", "</s>", "<user>", "<assistant>", "<system>", "?!", *letters])
    }
    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE(vocab, [], unk_token="?!"))
    tokenizer.add_special_tokens(["<s>", "</s>", "<user>", "<assistant>", "<system>"])
    tokenizer.post_processor = tokenizers.processors.TemplateProcessing("<s> $A", None, [("<s>", 1)])
    tokenizer.save(str(folder / "tokenizer.json"))
    config: dict[str, object] = {"bos_token": "<s>", "eos_token": "</s>"} | (
        {"chat_template": template} if template else {}
    )
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return folder


def run(stage: str, target: Path, *arguments: object) -> int:
    folder = target.parent
    paths = ["--data", folder / "data", "--model", folder / "drafter", "--cache-dir", folder / "cache"]
    return main([stage, "--target", str(target), *map(str, paths), "--workers", "1", *map(str, arguments)])


@pytest.fixture
def in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    def run_parts(part: object, parts: list[tuple[object, ...]]) -> None:
        for arguments in parts:
            part(*arguments)  # type: ignore[operator]

    monkeypatch.setattr(stages, "_run", run_parts)


@pytest.mark.usefixtures("in_this_process")
@pytest.mark.parametrize(("variant", "template"), [("llama", TEMPLATE), ("qwen2", None), ("gemma3", TEMPLATE)])
def test_all_stages_run_for_any_llm(
    variant: str, template: str | None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target = save_target(tmp_path / "llm", variant, template)
    assert run("generate", target, "--num-tokens", 600) == 0
    made = shards.read_shards(tmp_path / "data").num_tokens
    assert 600 <= made < 600 + 512  # one dialogue more than was asked for at most
    assert run("generate", target, "--num-tokens", 600) == 0  # nothing is left to do
    assert shards.read_shards(tmp_path / "data").num_tokens == made
    assert run("train", target, "--minutes", 0.01, *SMALL) == 0
    assert read_draft_vocab(tmp_path / "drafter") is not None
    assert run("evaluate", target, "--num-prompts", 2, "--answer-len", 4) == 0
    assert "top-1 hit rate" in capsys.readouterr().out


def test_parts_run_in_processes_of_their_own(tmp_path: Path) -> None:
    target = save_target(tmp_path / "llm")
    assert run("generate", target, "--num-tokens", 300) == 0
    assert shards.read_shards(tmp_path / "data").num_tokens >= 300


def test_prompts_are_encoded_as_conversations_are(tmp_path: Path) -> None:
    tokenizer = Tokenizer.from_folder(save_target(tmp_path))
    source = DialogueSource(tokenizer, ["Hello"])
    whole = [
        dialogue.prompt_ids
        for dialogue, _ in zip(source.dialogues(0), range(40), strict=False)
        if not dialogue.invents_user
    ]
    assert tuple(tokenizer.encode_chat([("user", "Hello")])) in whole  # one BOS, not two
    invented = next(dialogue for dialogue in source.dialogues(1) if dialogue.invents_user)
    assert invented.prompt_ids[:2] == tuple(tokenizer.encode_chat([("user", "")])[:2])


def test_an_llm_without_a_chat_template_goes_on_with_texts(tmp_path: Path) -> None:
    tokenizer = Tokenizer.from_folder(save_target(tmp_path, template=None))
    openers = {tuple(tokenizer.encode(opener)) for opener in OPENERS}
    for dialogue, _ in zip(DialogueSource(tokenizer, []).dialogues(0), range(20), strict=False):
        assert not dialogue.invents_user
        assert dialogue.prompt_ids in openers


def test_the_head_is_the_llms_own(tmp_path: Path) -> None:
    from safetensors.torch import load_file

    for variant, name in (("llama", "lm_head.weight"), ("llama-tied-biases", "model.embed_tokens.weight")):
        folder = save_target(tmp_path / variant, variant)
        target = open_target(str(folder), tmp_path, print)
        assert torch.equal(head_rows(target), load_file(folder / "model.safetensors")[name])


def test_data_of_another_llm_are_not_taken(tmp_path: Path) -> None:
    one, other = (open_target(str(save_target(tmp_path / name, name)), tmp_path, print) for name in ("llama", "qwen2"))
    claim_data_folder(tmp_path / "data", one)
    claim_data_folder(tmp_path / "data", one)
    with pytest.raises(ValueError, match=r"holds data of llama, not of qwen2: name another folder with --data"):
        claim_data_folder(tmp_path / "data", other)
    (tmp_path / "data" / "shard-00000.safetensors").write_text("")
    (tmp_path / "data" / "target.json").unlink()
    with pytest.raises(ValueError, match="nobody knows which LLM"):
        claim_data_folder(tmp_path / "data", one)


def test_mistakes_are_one_line_before_anything_slow(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target = save_target(tmp_path / "llm")
    (tmp_path / "prompts.json").write_text('{"a": 1}')
    (tmp_path / "empty").mkdir()
    mistakes = [
        (("generate", "--prompts", tmp_path / "nothing"), "--prompts: .*nothing does not exist"),
        (("generate", "--prompts", tmp_path / "prompts.json"), "prompts.json holds something else than prompts"),
        (("generate", "--prompts", tmp_path / "empty"), "there are no prompts in"),
        (("train",), "there are no data in .*: run the generate stage first"),
        (("evaluate",), "there is no drafter in .*: train one, or name its folder with --model"),
    ]
    capsys.readouterr()
    for (stage, *arguments), message in mistakes:
        assert run(stage, target, *arguments) == 1  # type: ignore[arg-type]
        lines = capsys.readouterr().err.strip().splitlines()
        assert len(lines) == 1
        assert lines[0].startswith("training: error: ")
        assert re.search(message, lines[0]), lines
    assert main(["generate", "--target", str(tmp_path / "nothing"), "--data", str(tmp_path / "data")]) == 1
    for arguments in (["--num-tokens", "0"], ["--workers", "x"], ["--minutes", "-1"]):
        with pytest.raises(SystemExit):
            main(["train", *arguments])


def test_a_wide_student_is_refused_with_what_fits(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target = save_target(tmp_path / "llm")
    (tmp_path / "data").mkdir()
    claim_data_folder(tmp_path / "data", open_target(str(target), tmp_path, print))
    (tmp_path / "data" / "shard-00000.safetensors").write_text("")
    assert run("train", target) == 1
    assert "--hidden-size 320 is more than the LLM's own 48: give at most that" in capsys.readouterr().err


def test_prompts_come_from_files_of_both_kinds(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text('["one", " "]')
    (tmp_path / "b.txt").write_text("two\n\nthree\n")
    (tmp_path / "c.md").write_text("four")
    assert read_prompts(tmp_path) == ["one", "two", "three"]
    assert read_prompts(tmp_path / "b.txt") == ["two", "three"]

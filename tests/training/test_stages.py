"""The stages of distillation from end to end on tiny LLMs, and what they refuse before anything slow begins."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import tokenizers
import torch
from safetensors import safe_open

from specgrove.cli import main
from specgrove.tokenizer import Tokenizer
from specgrove.training import decoder_stage, recording, shards, stages
from specgrove.training.options import EvaluateOptions
from specgrove.training.prompts import OPENERS, DialogueSource, read_prompts
from specgrove.training.target import claim_data_folder, head_rows, note_sources, open_target, sources_of
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


def run(action: str, target: Path, *arguments: object) -> int:
    folder = target.parent
    paths = ["--work-dir", folder / "data", "--cache-dir", folder / "cache"]
    return main(["ssm", action, "--llm", str(target), *map(str, paths), "--workers", "1", *map(str, arguments)])


@pytest.fixture
def in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    def run_parts(part: object, parts: list[tuple[object, ...]]) -> None:
        for arguments in parts:
            part(*arguments)  # type: ignore[operator]

    for module in (decoder_stage, recording):
        monkeypatch.setattr(module, "run_all", run_parts)


@pytest.mark.usefixtures("in_this_process")
@pytest.mark.parametrize(("variant", "template"), [("llama", TEMPLATE), ("qwen2", None)])
def test_a_decoder_is_trained_for_any_llm(
    variant: str, template: str | None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target = save_target(tmp_path / "llm", variant, template)
    train = (
        "train",
        target,
        "--kind",
        "decoder",
        "--out",
        tmp_path / "ssm",
        "--minutes",
        0.01,
        "--answer-len",
        4,
        *SMALL,
    )
    assert run(*train, "--num-tokens", 600) == 0
    made = shards.read_shards(tmp_path / "data").num_tokens
    assert 600 <= made < 600 + 512  # one dialogue more than was asked for at most
    assert read_draft_vocab(tmp_path / "ssm") is not None
    assert run("evaluate", target, "--ssm", tmp_path / "ssm", "--num-prompts", 2, "--answer-len", 4) == 0
    assert shards.read_shards(tmp_path / "data").num_tokens == made
    told = capsys.readouterr()
    assert "top-1 hit rate" in told.out
    assert "GB on disk" in told.err


def test_parts_run_in_processes_of_their_own(tmp_path: Path) -> None:
    target = open_target(str(save_target(tmp_path / "llm")), tmp_path, print)
    paths = recording.record(target, tmp_path / "data", [], 300, 1, (1, 3))
    assert shards.num_recorded(paths) >= 300
    with safe_open(paths[0], "numpy") as file:
        assert file.get_slice(shards.HIDDEN).get_shape()[1] == 2 * target.spec.hidden_size


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


def test_where_prompts_come_from_is_noted_for_all_runs(tmp_path: Path) -> None:
    folder, target = tmp_path / "data", open_target(str(save_target(tmp_path / "llm")), tmp_path, print)
    claim_data_folder(folder, target)
    assert sources_of(folder) == ()
    for names in (["a.json"], ["b.json", "a.json"]):
        note_sources(folder, names)
    assert sources_of(folder) == ("a.json", "b.json")
    claim_data_folder(folder, target)  # is still the same LLM's


def test_data_of_another_llm_are_not_taken(tmp_path: Path) -> None:
    one, other = (open_target(str(save_target(tmp_path / name, name)), tmp_path, print) for name in ("llama", "qwen2"))
    claim_data_folder(tmp_path / "data", one)
    claim_data_folder(tmp_path / "data", one)
    with pytest.raises(ValueError, match=r"holds data of llama, not of qwen2: name another folder with --work-dir"):
        claim_data_folder(tmp_path / "data", other)
    (tmp_path / "data" / "shard-00000.safetensors").write_text("")
    (tmp_path / "data" / "target.json").unlink()
    with pytest.raises(ValueError, match="nobody knows which LLM"):
        claim_data_folder(tmp_path / "data", one)


def test_mistakes_are_one_line_before_anything_slow(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target = save_target(tmp_path / "llm")
    (tmp_path / "prompts.json").write_text('{"a": 1}')
    (tmp_path / "empty").mkdir()
    train = ("train", "--out", tmp_path / "ssm")
    mistakes = [
        ((*train, "--data", tmp_path / "nothing"), "--data: .*nothing does not exist"),
        ((*train, "--data", tmp_path / "prompts.json"), "prompts.json holds something else than prompts"),
        ((*train, "--data", tmp_path / "empty"), "there are no prompts in"),
        (
            (*train, "--hidden-layers", 1, 2),
            "--hidden-layers 1 2: give numbers from 0 to 3, and 3, the last state, among them",
        ),
        ((*train, "--kind", "decoder"), "--hidden-size 320 is more than the LLM's own 48: give at most that"),
        ((*train, "--kind", "decoder", "--hidden-size", 16, "--boost", 2), "--boost goes with --kind head"),
        (("evaluate", "--ssm", tmp_path), "there is no SSM in .*: name a folder that `specgrove ssm train` wrote"),
    ]
    capsys.readouterr()
    for (action, *arguments), message in mistakes:
        assert run(action, target, *arguments) == 1  # type: ignore[arg-type]
        lines = capsys.readouterr().err.strip().splitlines()
        assert len(lines) == 1
        assert lines[0].startswith("specgrove: error: ")
        assert re.search(message, lines[0]), lines
    for wrong in (["--num-tokens", "0"], ["--workers", "x"], ["--minutes", "-1"]):
        with pytest.raises(SystemExit):
            main(["ssm", "train", "--out", "x", *wrong])


def test_prompts_come_from_files_of_both_kinds(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text('["one", " "]')
    (tmp_path / "b.txt").write_text("two\n\nthree\n")
    (tmp_path / "c.md").write_text("four")
    assert read_prompts(tmp_path) == ["one", "two", "three"]
    assert read_prompts(tmp_path / "b.txt") == ["two", "three"]
    (tmp_path / "windows.txt").write_bytes("\ufefffour\r\nfi\u2028ve\r\n".encode())
    assert read_prompts(tmp_path / "windows.txt") == ["four", "fi\u2028ve"]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("[]", "holds a list, it should hold a JSON object"),
        ("{", "is not JSON"),
        ("", "is empty"),
        ('{"architectures": 5}', "architectures is 5"),
    ],
)
def test_a_config_that_is_none_is_told_with_its_file(tmp_path: Path, content: str, said: str) -> None:
    path = tmp_path / "config.json"
    path.write_text(content)
    options = EvaluateOptions(llm="none", data=(), work_dir=None, cache_dir=tmp_path, ssm=tmp_path)
    with pytest.raises(ValueError, match=f"{re.escape(str(path))}.*{said}"):
        stages.evaluate(options)

"""The distillation's parts on tiny random models: the teacher's forward, the loss, the data, one training run, the figures."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from specgrove.models.decoder.family import read_spec
from specgrove.models.folders.hub import resolve_model
from specgrove.training import evaluate, shards, student, train
from specgrove.training.answers import greedy_answers
from specgrove.training.losses import soft_target_loss
from specgrove.training.options import DecoderShape
from specgrove.training.prompts import Dialogue
from specgrove.training.sampler import GenerationLimits, generate, sample
from specgrove.training.teacher import Teacher, top_log_probs
from tests.conftest import TINY_VOCAB_SIZE, save_tiny_llama
from tests.models.families import save_tiny
from tests.models.gguf_writing import save_tiny_gguf, tiny_model

EOS_ID = 2
SHAPE = DecoderShape(
    draft_vocab_size=40,
    hidden_size=32,
    intermediate_size=48,
    num_layers=1,
    num_heads=2,
    num_kv_heads=1,
    head_dim=16,
)


@pytest.fixture(scope="module")
def teacher_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny Llama with tied embeddings, as the demo LLM has."""
    return save_tiny_llama(tmp_path_factory.mktemp("teacher"), seed=3, tie_word_embeddings=True)


def make_dialogues(seed: int) -> Iterator[Dialogue]:
    """Whole prompts and invented ones, by turns."""
    for index in itertools.count(seed):
        yield Dialogue((1, 5 + index % 7, 9), False, ())
        yield Dialogue((1, 4), True, (2, 7, 8))


@pytest.fixture(scope="module")
def data_folder(teacher_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """About 2000 tokens of generated data, in two shards or more."""
    folder = tmp_path_factory.mktemp("data")
    limits = GenerationLimits(
        num_rows=8, max_len=48, max_user_len=6, max_answer_len=24, num_tokens=2000, tokens_per_shard=1000
    )
    lines: list[str] = []
    generate(Teacher(teacher_folder, 8, 48), make_dialogues, folder, limits, {EOS_ID}, 0, lines.append)
    assert lines
    return folder


TARGETS = [
    "llama",
    "llama-tied-biases",
    "qwen2",
    "qwen3",
    "llama-rope-llama3",
    "gemma3",
    "opt-350m",
    "falcon-40b",
    "sharded",
    "gguf",
]


@pytest.mark.parametrize("kind", TARGETS)
def test_the_teachers_logits_are_transformers(kind: str, tmp_path: Path) -> None:
    """Untied heads, biases, scalings, several files, other families: rows at different positions in one batch."""
    folder = tmp_path / "model"
    model = save_tiny("qwen2" if kind == "sharded" else "llama" if kind == "gguf" else kind, folder)
    if kind == "sharded":
        (folder / "model.safetensors").unlink()
        model.save_pretrained(folder, max_shard_size="30KB")
        assert len(list(folder.glob("*.safetensors"))) > 2
    if kind == "gguf":
        values = save_tiny_gguf(tmp_path / "tiny.gguf", "F16", family="qwen2")
        folder = resolve_model(str(tmp_path / "tiny.gguf"), cache_dir=tmp_path, progress=print)
        model = tiny_model("qwen2").eval()
        model.load_state_dict(values)
    token_ids = torch.randint(0, TINY_VOCAB_SIZE, (2, 12), generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        expected = model(token_ids).logits
    teacher = Teacher(folder, 3, 16, dtype=torch.float32)
    for place in range(12):
        lag = max(0, place - 3)  # row 1 runs three tokens behind
        logits = teacher.step([int(token_ids[0, place]), int(token_ids[1, lag])], [place, lag]).logits
        assert (logits[0] - expected[0, place]).abs().max() < 1e-4
        assert (logits[1] - expected[1, lag]).abs().max() < 1e-4


@pytest.mark.parametrize("vocab_size", [97, 4096])
def test_top_log_probs(vocab_size: int) -> None:
    logits = torch.randn(5, vocab_size, generator=torch.Generator().manual_seed(0))
    values, ids = top_log_probs(logits, 16)
    expected = logits.log_softmax(-1).topk(16)
    assert torch.equal(ids, expected.indices)
    torch.testing.assert_close(values, expected.values)


def test_sample_is_greedy_at_temperature_zero() -> None:
    log_probs = torch.tensor([[0.5, 0.3, 0.2], [0.5, 0.3, 0.2]]).log().repeat(500, 1)
    drawn = sample(log_probs, torch.tensor([0.0, 1.0]).repeat(500), torch.Generator().manual_seed(0))
    assert int(drawn[0::2].max()) == 0
    assert 0.4 < float((drawn[1::2] == 0).float().mean()) < 0.6


def test_data_holds_what_the_teacher_would_say(data_folder: Path, teacher_folder: Path) -> None:
    data = shards.read_shards(data_folder)
    assert len(shards.shard_paths(data_folder)) >= 2
    assert data.num_tokens == data.lengths.sum() >= 2000
    assert (np.diff(data.top_log_probs.astype(np.float32), axis=1) <= 0).all()
    start, length = int(data.starts()[3]), int(data.lengths[3])
    teacher = Teacher(teacher_folder, 1, 48)
    for place in range(length):
        logits = teacher.step([int(data.token_ids[start + place])], [place]).logits
        values, _ = top_log_probs(logits, 16)
        np.testing.assert_allclose(values[0].numpy(), data.top_log_probs[start + place].astype(np.float32), atol=0.15)
    assert not data.is_made[start]  # the token after the first belongs to the prompt


def test_loss_and_gradients() -> None:
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(700, 16, generator=generator).bfloat16().float().requires_grad_()
    head = torch.randn(50, 16, generator=generator).bfloat16().float().requires_grad_()
    ids = torch.randint(0, 50, (700, 4), generator=generator)
    probs = torch.rand(700, 4, generator=generator).softmax(-1)
    loss = soft_target_loss(hidden, head, ids, probs)
    gradients = torch.autograd.grad(loss, (hidden, head))
    log_probs = (hidden @ head.T).log_softmax(-1)
    expected = -(log_probs.gather(1, ids) * probs).sum(-1).mean()
    torch.testing.assert_close(loss, expected, rtol=1e-2, atol=1e-2)
    for ours, theirs in zip(gradients, torch.autograd.grad(expected, (hidden, head)), strict=True):
        assert float((ours - theirs).norm() / theirs.norm()) < 0.02


def test_draft_vocab(data_folder: Path) -> None:
    data = shards.read_shards(data_folder)
    ids = student.choose_draft_vocab(data, TINY_VOCAB_SIZE, 40, always_ids=(0, 96))
    assert ids.dtype == np.int32
    assert len(ids) == 40
    assert ids[0] == -1
    assert {0, 96} <= set(ids.tolist())
    assert len(set(ids.tolist())) == 40
    inverse = student.draft_id_of_token(ids, TINY_VOCAB_SIZE)
    assert (ids[inverse[ids[1:]]] == ids[1:]).all()
    assert (inverse > 0).sum() == 39


def test_training_learns_resumes_and_saves(data_folder: Path, teacher_folder: Path, tmp_path: Path) -> None:
    data = shards.read_shards(data_folder)
    ids = student.choose_draft_vocab(data, TINY_VOCAB_SIZE, SHAPE.draft_vocab_size, (EOS_ID,))
    embedding = load_file(teacher_folder / "model.safetensors")["model.embed_tokens.weight"]
    model = student.new_student(
        SHAPE, read_spec(teacher_folder), student.principal_embedding(embedding, ids, SHAPE.hidden_size)
    )
    before = evaluate.evaluate(model.eval(), ids, data, TINY_VOCAB_SIZE)
    rows = train.training_rows(data, ids, TINY_VOCAB_SIZE, hard_share=0.2)
    torch.testing.assert_close(rows.target_probs.sum(-1), torch.ones(data.num_tokens))
    lines: list[str] = []
    ticks = itertools.count()
    for minutes in (0.03, 0.05):
        settings = train.TrainingSettings(minutes=minutes, row_len=64, rows_per_pass=4)
        done = train.train(
            model, data, rows, settings, tmp_path / "checkpoint.pt", lines.append, lambda: next(ticks) * 0.01
        )
    assert any("going on after" in line for line in lines)
    after = evaluate.evaluate(model.eval(), ids, data, TINY_VOCAB_SIZE)
    assert after.hit_rates[4] > before.hit_rates[4] + 0.05

    student.save_student(model, ids, tmp_path / "drafter", "tiny", "0" * 64, done)
    saved = json.loads((tmp_path / "drafter" / "config.json").read_text())
    told = {"draft_vocab": True, "target": "tiny", "vocab_sha256": "0" * 64, "training": None}
    assert saved["specgrove"] | {"training": None} == told
    assert saved["vocab_size"] == SHAPE.draft_vocab_size
    tensors = load_file(tmp_path / "drafter" / "model.safetensors")
    assert tensors["draft_token_ids"].tolist() == ids.tolist()
    assert tensors["model.layers.0.mlp.down_proj.weight"].dtype == torch.bfloat16
    loaded, loaded_ids = student.load_student(tmp_path / "drafter")
    again = evaluate.evaluate(loaded, loaded_ids, data, TINY_VOCAB_SIZE)
    assert again.hit_rates[4] == pytest.approx(after.hit_rates[4], abs=0.02)


def test_accepted_per_step() -> None:
    """hits 1 1 0 | 0 | 1 1 1 1 + bonus | 1 and the answer's end: 2 + 0 + 4 + 1 drafted tokens in four steps."""
    hits = np.array([1, 1, 0, 0, 1, 1, 1, 1, 1, 1], dtype=bool)
    assert evaluate._accepted_per_step([hits]) == pytest.approx((2 + 0 + 4 + 1) / 4)


def test_greedy_answers_stop_at_the_end(teacher_folder: Path, tmp_path: Path) -> None:
    prompts = [[1, 5, 9], [1, 4, 3, 3, 8]]
    greedy_answers(Teacher(teacher_folder, 2, 32), prompts, 10, {EOS_ID}, tmp_path)
    answers = shards.read_shards(tmp_path)
    assert len(answers.lengths) == 2
    for start, length, prompt in zip(answers.starts(), answers.lengths, prompts, strict=True):
        token_ids = answers.token_ids[start : start + length]
        assert token_ids[: len(prompt)].tolist() == prompt
        made = answers.is_made[start : start + length]
        assert made.sum() <= 10
        places = np.flatnonzero(made)[:-1]
        assert (answers.top_ids[start + places, 0] == token_ids[places + 1]).all()
        assert EOS_ID not in token_ids[len(prompt) :]

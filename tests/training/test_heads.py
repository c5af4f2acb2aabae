"""Training of SSMs that read hidden states, on tiny LLMs: what is recorded, the start, the loss, and resuming."""

from __future__ import annotations

import itertools
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from specgrove.models.hidden_state.module import HiddenStateModule
from specgrove.training import (
    boosting,
    candidate_head,
    closed_form,
    head_stage,
    outputs,
    shards,
)
from specgrove.training.acceptance import TREE_ROWS, _StepCounts, measured
from specgrove.training.calibration import depth_scales
from specgrove.training.hidden_data import HiddenDialogues
from specgrove.training.hidden_training import HiddenTraining, HiddenTrainingSettings, unrolled_outputs
from specgrove.training.options import HeadShape
from specgrove.training.sampler import GenerationLimits, generate
from specgrove.training.target import Target, TargetEnds, open_target, target_ends
from specgrove.training.teacher import Teacher, TeacherStep
from tests.models.families import save_tiny
from tests.training.test_parts import make_dialogues
from tests.training.test_stages import save_target

LAYERS = (1, 2, 3)
SETTINGS = HiddenTrainingSettings(num_passes=3, tokens_per_step=256, num_sampled_rows=20, max_skipped=6)


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Target:
    folder = tmp_path_factory.mktemp("target")
    return open_target(str(save_target(folder / "llm")), folder, print)


@pytest.fixture(scope="module")
def recorded(target: Target, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """About 2000 tokens, in several shards."""
    folder = tmp_path_factory.mktemp("recorded")
    limits = GenerationLimits(
        num_rows=8, max_len=48, max_user_len=6, max_answer_len=24, num_tokens=2000, tokens_per_shard=700
    )
    generate(Teacher(target.folder, 8, 48, LAYERS), make_dialogues, folder, limits, {2}, 0, lambda line: None)
    return folder


@pytest.fixture(scope="module")
def ends(target: Target) -> TargetEnds:
    return target_ends(target)


def dialogues(folder: Path, num_held_out: int = 0) -> HiddenDialogues:
    return HiddenDialogues(shards.shard_paths(folder), num_held_out)


def new_module(target: Target) -> HiddenStateModule:
    torch.manual_seed(0)
    return HiddenStateModule(head_stage.spec_of(target.spec, HeadShape(hidden_layers=LAYERS)))


@pytest.mark.parametrize("variant", ["llama", "qwen3", "gemma3", "falcon-40b", "opt-125m", "gpt-bigcode", "mpt"])
def test_recorded_hidden_states_are_transformers(variant: str, tmp_path: Path) -> None:
    """Those at a layer's input; the number of layers stands for what the last norm reads."""
    try:
        model = save_tiny(variant, tmp_path)
    except (KeyError, ValueError):
        pytest.skip(f"no tiny {variant}")
    token_ids = torch.randint(0, 90, (1, 9), generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        expected = model(token_ids, output_hidden_states=True).hidden_states
    teacher = Teacher(tmp_path, 1, 16, (1, 2), dtype=torch.float32)
    for place in range(9):
        hidden = teacher.step([int(token_ids[0, place])], [place]).hidden
        assert hidden is not None
        told = torch.cat([expected[1][0, place], expected[2][0, place]])
        torch.testing.assert_close(hidden[0].float(), told, rtol=1e-2, atol=1e-2)


def outputs_of(recorded: Path, path: Path, target: Target) -> outputs.Outputs:
    outputs.write_outputs(path, [shards.read_shards(recorded)], target.tokenizer.vocab_sha256)
    return outputs.read_outputs(path, target.spec.vocab_size, target.tokenizer.vocab_sha256)


def test_outputs_are_read_again_to_the_bits_that_were_recorded(target: Target, recorded: Path, tmp_path: Path) -> None:
    """A run that is killed goes on after the last shard that it wrote."""
    told = outputs_of(recorded, tmp_path / "outputs.npz", target)
    teacher = Teacher(target.folder, 1, 48, LAYERS)
    with pytest.raises(KeyboardInterrupt):
        outputs.read_again(_Stopped(teacher, 20), told, tmp_path / "again", print, tokens_per_shard=300)  # type: ignore[arg-type]
    num_before = shards.num_sequences(shards.shard_paths(tmp_path / "again"))
    assert 0 < num_before < 20
    counting = _Stopped(teacher, len(told.lengths) - num_before)
    paths = outputs.read_again(counting, told, tmp_path / "again", print, tokens_per_shard=300)  # type: ignore[arg-type]
    first, again = HiddenDialogues(shards.shard_paths(recorded)), HiddenDialogues(paths)
    assert len(first) == len(again) == len(told.lengths)
    for index in range(len(first)):
        expected, found = first.batch([index]), again.batch([index])
        for name in ("hidden", "token_ids", "is_made", "top_ids", "top_probs"):
            assert torch.equal(getattr(expected, name), getattr(found, name)), (index, name)


class _Stopped:
    """A teacher that is stopped after so many dialogues, each of one chunk."""

    def __init__(self, teacher: Teacher, num_left: int) -> None:
        self._teacher, self._num_left = teacher, num_left

    def read(self, token_ids: list[int], first: int) -> TeacherStep:
        if self._num_left == 0:
            raise KeyboardInterrupt
        self._num_left -= 1
        return self._teacher.read(token_ids, first)


def test_long_dialogues_are_read_in_chunks(
    target: Target, recorded: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    told = outputs_of(recorded, tmp_path / "outputs.npz", target)
    monkeypatch.setattr(outputs, "_CHUNK_LEN", 7)
    paths = outputs.read_again(Teacher(target.folder, 1, 48, LAYERS), told, tmp_path / "again", print)
    first, again = dialogues(recorded).batch([2]), HiddenDialogues(paths).batch([2])
    assert torch.equal(first.hidden, again.hidden)
    assert torch.equal(first.top_ids, again.top_ids)


def test_outputs_of_others_are_refused(target: Target, recorded: Path, tmp_path: Path) -> None:
    path, vocab = tmp_path / "outputs.npz", (target.spec.vocab_size, target.tokenizer.vocab_sha256)
    outputs_of(recorded, path, target)
    with pytest.raises(ValueError, match="of an LLM with another vocabulary"):
        outputs.read_outputs(path, vocab[0], "0" * 64)
    with pytest.raises(ValueError, match="of an LLM with another vocabulary"):
        outputs.read_outputs(path, 3, vocab[1])
    arrays = dict(np.load(path))
    np.savez(path, **(arrays | {"lengths": arrays["lengths"][:-1]}))
    with pytest.raises(ValueError, match="damaged"):
        outputs.read_outputs(path, *vocab)
    path.write_bytes(b"no archive")
    with pytest.raises(ValueError, match="holds no outputs"):
        outputs.read_outputs(path, *vocab)


def test_the_head_of_the_last_state_is_the_llms_choice(target: Target, recorded: Path, ends: TargetEnds) -> None:
    batch = dialogues(recorded).batch([0, 1])
    last = batch.hidden.chunk(len(LAYERS), dim=-1)[-1]
    logits = ends.normed_state(last) * ends.state_gain @ ends.head.T
    is_there = batch.top_probs.sum(-1) > 0
    best = logits.argmax(dim=-1)[is_there]
    assert (best == batch.top_ids[..., 0][is_there]).float().mean() > 0.9  # bfloat16 may turn near ties


def test_batches_lack_what_was_skipped(recorded: Path) -> None:
    data = dialogues(recorded)
    whole, cut = data.batch([3]), data.batch([3, 4], [5, 0])
    length = data.length(3) - 5
    assert torch.equal(cut.token_ids[0, :length], whole.token_ids[0, 5:])
    assert torch.equal(cut.hidden[0, :length], whole.hidden[0, 5:])
    assert not cut.is_made[0, length:].any()


def test_the_least_read_are_chosen_and_the_held_out_never(recorded: Path) -> None:
    data, rng = dialogues(recorded, num_held_out=3), np.random.default_rng(0)
    while min(data.num_reads[3:]) < 2:
        assert min(data.choose(200, rng)) >= 3
        assert max(data.num_reads) <= min(data.num_reads[3:]) + 2
    assert data.num_reads[:3] == [0, 0, 0]


def test_the_closed_form_beats_chance_and_ridge_is_least_squares(
    target: Target, recorded: Path, ends: TargetEnds
) -> None:
    module, data = new_module(target), dialogues(recorded)
    found = closed_form.start(module, data, ends, 10_000, torch.Generator().manual_seed(0))
    assert 0 < found.from_own_states <= found.from_hidden_states + 0.02 <= 1.02
    batch = data.batch(range(8))
    (outputs,) = unrolled_outputs(module, batch, ends.embedding, 1)
    is_made = batch.is_made[:, 1:]
    best = (outputs[:, :-1] @ ends.head.T).argmax(dim=-1)[is_made]
    assert (best == batch.top_ids[:, 1:, 0][is_made]).float().mean() > 0.1  # chance: 0.01


def test_a_killed_run_goes_on_to_the_same_bits(
    target: Target, recorded: Path, ends: TargetEnds, tmp_path: Path
) -> None:
    class KilledError(Exception):
        pass

    def trained(name: str, kill_after: int | None = None) -> HiddenStateModule:
        training = HiddenTraining(new_module(target), dialogues(recorded), ends, SETTINGS)
        ticks = itertools.count()

        def clock() -> float:
            if kill_after is not None and training.num_steps == kill_after:
                raise KilledError
            return next(ticks) * 40.0  # a checkpoint at every second step

        training.run(tmp_path / name, lambda line: None, clock)
        assert training.num_steps == training.num_steps_in_all == len(training.curve)
        return training.module

    whole = trained("whole").state_dict()
    with pytest.raises(KilledError):
        trained("part", kill_after=7)
    resumed = trained("part").state_dict()
    assert all(torch.equal(resumed[name], value) for name, value in whole.items())


def test_the_time_left_is_told_by_steps_of_the_same_kind(
    target: Target, recorded: Path, ends: TargetEnds, tmp_path: Path
) -> None:
    """Unrolled steps take longer than those before them."""
    training = HiddenTraining(new_module(target), dialogues(recorded), ends, SETTINGS)
    num_all = training.num_steps_in_all
    share = 1 - SETTINGS.unrolled_passes / SETTINGS.num_passes
    num_plain = next(step for step in range(num_all) if step / num_all >= share)
    told: dict[int, float] = {}

    def tell(line: str) -> None:
        if (found := re.match(r"train: step (\d+) of .* about (\d+) s left", line)) is not None:
            told[int(found[1])] = int(found[2])

    training.run(
        tmp_path / "checkpoint.pt",
        tell,
        lambda: training.num_steps * 10 + max(0, training.num_steps - num_plain) * 30,
    )
    unrolled = {step: (num_all - step) * 40 for step in range(num_plain + 1, num_all + 1)}
    assert len(unrolled) > 3
    assert {step: told[step] for step in unrolled} == unrolled
    # The last plain step is told by a rule of thumb, not by what plain steps took.
    assert told[num_plain] == pytest.approx((num_all - num_plain) * 10 * (0.5 + 0.6 * SETTINGS.num_unrolled), abs=1)


def test_training_learns_and_the_rest_follows(target: Target, recorded: Path, ends: TargetEnds, tmp_path: Path) -> None:
    data = dialogues(recorded)
    eager = replace(SETTINGS, num_passes=12, num_warmup_steps=3, matrix_learning_rate=1e-2, map_learning_rate=3e-3)
    training = HiddenTraining(new_module(target), data, ends, eager)
    training.run(tmp_path / "checkpoint.pt", lambda line: None)
    first, last = (np.mean([point.loss for point in part]) for part in (training.curve[:3], training.curve[-3:]))
    assert last < first - 0.05
    batch = data.batch(range(6))
    scales = depth_scales(training.module, [batch], ends, 3)
    assert len(scales) == 3
    assert all(0.6 <= scale <= 2 for scale in scales)
    weights = boosting.position_weights([training.module], data, ends)
    assert [len(each) for each in weights] == [data.length(index) for index in range(len(data))]
    assert 0 < boosting.share_known(weights) < 1
    acceptance = measured(training.module, HiddenDialogues(shards.shard_paths(recorded)[:1]), ends)  # a third of them
    assert acceptance.first_choice <= acceptance.among_four <= 1
    lengths = [acceptance.tokens_per_verification[num_rows] for num_rows in TREE_ROWS]
    assert 1 <= lengths[0] <= lengths[1] + 0.1
    assert lengths[1] <= lengths[2] + 0.1


def test_the_candidate_head_of_full_rank_is_the_head() -> None:
    spec = replace(head_stage.spec_of(_spec_like(), HeadShape()), candidate_rank=16, num_candidates=3)
    module = HiddenStateModule(spec)
    generator = torch.Generator().manual_seed(0)
    head, outputs = torch.randn(90, 16, generator=generator), torch.randn(300, 16, generator=generator)
    candidate_head.fit(module, head, outputs)
    torch.testing.assert_close(module.candidate_head(outputs), outputs @ head.T, rtol=1e-3, atol=1e-3)
    assert candidate_head.recall(module, head, outputs) == 1.0


def _spec_like() -> object:
    from specgrove.models.decoder.spec import DecoderSpec, LayerSpec

    return DecoderSpec(
        "x",
        90,
        16,
        24,
        2,
        1,
        8,
        64,
        (LayerSpec(),) * 4,
        "rms",
        1e-5,
        "silu",
        True,
        "pre_norm",
        1.0,
        True,  # type: ignore[arg-type]
    )


def test_the_calibration_error_is_by_tenths_of_probability() -> None:
    counts = _StepCounts()
    probs, is_right = torch.tensor([[0.9, 0.05], [0.95, 0.05]]), torch.tensor([[True, False], [False, False]])
    counts._count(1, probs, is_right)
    # Two of 0.9 and more, of which one was right; two of 0.05, of which none was.
    expected = (abs(0.9 + 0.95 - 1) + 0.1) / 4
    assert counts.acceptance({}).calibration_errors == pytest.approx((0.0, expected, 0.0, 0.0))

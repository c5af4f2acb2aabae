"""SSMs of kind ``head``: one layer on the LLM's hidden states, trained on recordings of them. Called by ``stages``."""

from __future__ import annotations

import hashlib
import platform
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch

from specgrove.files.json_files import read_json_object
from specgrove.machine.cpus import available_cpus
from specgrove.models.decoder.rotary_spec import RotarySpec
from specgrove.models.decoder.spec import DecoderSpec
from specgrove.models.hidden_state.module import HiddenStateModule
from specgrove.models.hidden_state.own_config import own_spec_of
from specgrove.models.hidden_state.own_folder import load_own_folder
from specgrove.models.hidden_state.recognition import is_own
from specgrove.models.hidden_state.spec import Calibration, HiddenSsmSpec
from specgrove.training import boosting, hidden_export, shards
from specgrove.training.acceptance import Acceptance, measured
from specgrove.training.hidden_data import HiddenDialogues
from specgrove.training.hidden_training import HiddenTraining, HiddenTrainingSettings
from specgrove.training.options import HeadShape, TrainOptions
from specgrove.training.outputs import OUTPUTS_NAME, write_outputs
from specgrove.training.target import Target, TargetEnds, target_ends
from specgrove.training.workers import say

_HELD_OUT_SHARE = 0.03  # of the dialogues, for calibration
_MAX_HELD_OUT = 64
_DEFAULT_THETA = 10000.0


def layers_of(spec: DecoderSpec, shape: HeadShape) -> tuple[int, ...]:
    """Whose inputs are read. Raises ``ValueError`` for layers that are not there."""
    num_layers = spec.num_layers
    if not shape.hidden_layers:
        return tuple(sorted({num_layers // 2, num_layers * 4 // 5, num_layers}))
    layers = tuple(sorted(set(shape.hidden_layers)))
    if layers[0] < 0 or layers[-1] != num_layers:
        raise ValueError(
            f"--hidden-layers {' '.join(map(str, shape.hidden_layers))}: give numbers from 0 to {num_layers}, and {num_layers}, "
            "the last state, among them"
        )
    return layers


def spec_of(target: DecoderSpec, shape: HeadShape) -> HiddenSsmSpec:
    """The layer is shaped as the LLM's own are."""
    rotaries = [layer.rotary for layer in target.layers if layer.rotary is not None]
    theta = max((rotary.theta for rotary in rotaries), default=_DEFAULT_THETA)
    return HiddenSsmSpec(
        hidden_size=target.hidden_size,
        target_hidden_size=target.hidden_size,
        intermediate_size=target.intermediate_size,
        num_heads=target.num_heads,
        num_kv_heads=target.num_kv_heads,
        head_dim=target.head_dim,
        norm_eps=target.norm_eps,
        rotary=RotarySpec(theta),
        max_position_embeddings=target.max_position_embeddings,
        vocab_size=target.vocab_size,
        hidden_layers=layers_of(target, shape),
        hidden_window=shape.hidden_window,
        input_norms="each",
        feeds_normed_state=True,
        has_embedding_residual=True,
        has_fed_back_map=True,
    )


def check_start(folder: Path, target: Target, options: TrainOptions) -> None:
    """Raises ``ValueError`` where training can't go on from that SSM: it is none of ours, or shaped otherwise."""
    if options.kind != "head":
        raise ValueError("--start: only an SSM of kind head can go on from another one")
    if not (folder / "config.json").is_file() or not is_own(folder):
        raise ValueError(f"--start: there is no SSM in {folder} that `specgrove ssm train --kind head` wrote")
    found = own_spec_of(read_json_object(folder / "config.json"))
    wanted = spec_of(target.spec, options.head)
    if _as_started(found) != _as_started(wanted):
        raise ValueError(
            f"--start: the SSM in {folder} is of another shape, or reads other layers than {wanted.hidden_layers}"
        )


def _as_started(spec: HiddenSsmSpec) -> HiddenSsmSpec:
    """Without what comes after training."""
    return replace(
        spec, vocab_sha256="", calibration=Calibration(), candidate_rank=None, num_candidates=1, first_choice_floor=None
    )


def train(
    target: Target,
    options: TrainOptions,
    work_dir: Path,
    paths: Sequence[Path],
    answers: Sequence[Path],
    prompt_sources: Sequence[str],
) -> None:
    """Writes a folder for each SSM, ``out``, ``out-2`` and so on; ``prompt_sources`` are those of all recordings.

    Raises ``ValueError``, ``OSError``.
    """
    torch.set_num_threads(options.workers)
    ends, spec = target_ends(target), spec_of(target.spec, options.head)
    modules: list[HiddenStateModule] = []
    for number in range(1, options.boost + 1):
        folder = options.out if number == 1 else options.out.with_name(f"{options.out.name}-{number}")
        data = HiddenDialogues(paths)
        data.num_held_out = min(_MAX_HELD_OUT, int(_HELD_OUT_SHARE * len(data)))
        weights = None
        if modules:
            weights = boosting.position_weights(modules, data, ends)
            say(f"train: SSM {number}: those before it are right in {boosting.share_known(weights):.3f} of all places")
        settings = HiddenTrainingSettings(num_passes=options.passes, unrolled_passes=min(1.0, options.passes))
        module = HiddenStateModule(spec)
        if has_start := options.start is not None and number == 1:
            module.load_state_dict(load_own_folder(options.start).float().state_dict(), strict=False)
        training = HiddenTraining(module, data, ends, settings, weights, has_start=has_start)
        started_s = time.monotonic()
        started_from = str(options.start) if has_start else ""
        training.run(work_dir / _checkpoint_name(spec, settings, data, number, started_from), say)
        facts = hidden_export.TrainingFacts(
            target_name=target.name,
            num_tokens=data.num_tokens,
            num_made=data.num_made,
            num_passes=options.passes,
            prompt_sources=tuple(prompt_sources),
            minutes=(time.monotonic() - started_s) / 60,
            machine=f"{options.workers} of {available_cpus()} cores ({platform.machine()})",
            boosted_after=number - 1,
        )
        modules.append(_export(folder, training, data, ends, options.head, target, facts, paths, answers))


def _export(
    folder: Path,
    training: HiddenTraining,
    data: HiddenDialogues,
    ends: TargetEnds,
    shape: HeadShape,
    target: Target,
    facts: hidden_export.TrainingFacts,
    paths: Sequence[Path],
    answers: Sequence[Path],
) -> HiddenStateModule:
    say("train: candidate head and calibration")
    whole, recall = hidden_export.finished(
        training.module, data, ends, shape.candidate_rank, shape.num_candidates, target.tokenizer.vocab_sha256
    )
    written = hidden_export.write(folder, whole)
    acceptance = measured(written, HiddenDialogues(answers), ends, say)
    written = hidden_export.write(folder, hidden_export.with_floor(written, acceptance))
    hidden_export.write_card(folder, written, facts, acceptance, recall)
    write_outputs(folder / OUTPUTS_NAME, [shards.read_paths(paths)], target.tokenizer.vocab_sha256)
    if not hidden_export.draw_curve(folder / hidden_export.CHART_NAME, training.curve):
        say("train: no chart of the loss: matplotlib is not installed")
    report(acceptance)
    say(f"train: written to {folder}")
    return written


def _checkpoint_name(
    spec: HiddenSsmSpec, settings: HiddenTrainingSettings, data: HiddenDialogues, number: int, start: str
) -> str:
    """Another run's has another name."""
    told = repr((replace(spec, vocab_sha256=""), settings, len(data), data.num_tokens, number, start))
    return f"checkpoint-{hashlib.sha256(told.encode()).hexdigest()[:12]}.pt"


def evaluate(folder: Path, target: Target, answers: Sequence[Path]) -> None:
    """Says how good an SSM is on the LLM's greedy answers."""
    report(measured(load_own_folder(folder), HiddenDialogues(answers), target_ends(target), say))


def report(acceptance: Acceptance) -> None:
    """The figures, a line each."""
    print(f"positions                  {acceptance.num_positions}")
    print(f"first choice right         {acceptance.first_choice:.3f}")
    print(f"among the first four       {acceptance.among_four:.3f}")
    print(f"right by step, given those before  {' '.join(f'{share:.3f}' for share in acceptance.by_step)}")
    print(f"calibration error by step  {' '.join(f'{error:.3f}' for error in acceptance.calibration_errors)}")
    for num_rows, length in acceptance.tokens_per_verification.items():
        print(f"tokens per verification of {num_rows:2} rows  {length:.2f}")

"""``specgrove ssm``: trains SSMs for an LLM and measures them. Figures go to stdout, what goes on to stderr."""

from __future__ import annotations

import argparse
from pathlib import Path

from specgrove.training.options import DecoderShape, EvaluateOptions, HeadShape, TrainOptions


def run(arguments: argparse.Namespace) -> int:
    """Runs one action."""
    from specgrove.training import stages  # brings torch

    try:
        if arguments.action == "train":
            stages.train(_train_options(arguments))
        else:
            stages.evaluate(_evaluate_options(arguments))
    except RuntimeError as error:  # of a process that has told its own line
        raise ValueError(str(error)) from error
    return 0


def _train_options(arguments: argparse.Namespace) -> TrainOptions:
    return TrainOptions(
        llm=arguments.llm,
        kind=arguments.kind,
        data=_paths(arguments.data),
        work_dir=_path(arguments.work_dir),
        out=Path(arguments.out),
        cache_dir=Path(arguments.cache_dir),
        num_tokens=arguments.num_tokens,
        workers=arguments.workers,
        boost=arguments.boost,
        passes=arguments.passes,
        minutes=arguments.minutes,
        decoder=DecoderShape(
            draft_vocab_size=arguments.draft_vocab_size,
            hidden_size=arguments.hidden_size,
            intermediate_size=arguments.intermediate_size,
            num_layers=arguments.num_layers,
        ),
        head=HeadShape(hidden_layers=tuple(arguments.hidden_layers)),
        answer_len=arguments.answer_len,
    )


def _evaluate_options(arguments: argparse.Namespace) -> EvaluateOptions:
    return EvaluateOptions(
        llm=arguments.llm,
        ssm=Path(arguments.ssm),
        data=_paths(arguments.data),
        work_dir=_path(arguments.work_dir),
        cache_dir=Path(arguments.cache_dir),
        num_prompts=arguments.num_prompts,
        answer_len=arguments.answer_len,
        workers=arguments.workers,
    )


def _paths(places: list[str]) -> tuple[Path, ...]:
    return tuple(map(Path, places))


def _path(place: str | None) -> Path | None:
    return None if place is None else Path(place)

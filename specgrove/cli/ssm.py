"""``specgrove ssm``: trains SSMs for an LLM and measures them. Figures go to stdout, what goes on to stderr."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

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
        **_shared(arguments),
        kind=arguments.kind,
        out=Path(arguments.out),
        num_tokens=arguments.num_tokens,
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
        outputs=tuple(map(Path, arguments.outputs)),
        start=None if arguments.start is None else Path(arguments.start),
    )


def _evaluate_options(arguments: argparse.Namespace) -> EvaluateOptions:
    return EvaluateOptions(**_shared(arguments), ssm=Path(arguments.ssm), num_prompts=arguments.num_prompts)


def _shared(arguments: argparse.Namespace) -> dict[str, Any]:
    """The fields of ``SharedOptions``."""
    return {
        "llm": arguments.llm,
        "data": tuple(map(Path, arguments.data)),
        "work_dir": None if arguments.work_dir is None else Path(arguments.work_dir),
        "cache_dir": Path(arguments.cache_dir),
        "workers": arguments.workers,
        "answer_len": arguments.answer_len,
    }

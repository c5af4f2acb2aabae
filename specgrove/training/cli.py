"""The command line: ``python -m specgrove.training generate|train|evaluate``, each resumable. Owns arguments and failures."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from specgrove.machine.cpus import available_cpus
from specgrove.machine.folders import default_cache_dir, provide_home
from specgrove.models.folders.hub import DEMO_LLM
from specgrove.training import stages
from specgrove.training.student import StudentShape

STAGES = {"generate": stages.generate, "train": stages.train, "evaluate": stages.evaluate}


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one stage. Exit code 0 done, 1 failed with a line that says why, 2 wrong usage."""
    arguments = _arguments(argv)
    try:
        provide_home()
        STAGES[arguments.stage](arguments)
    except (ValueError, OSError, RuntimeError) as error:
        print(f"training: error: {' '.join(str(error).split())}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    cache_dir, shape = default_cache_dir(), StudentShape()
    parser = argparse.ArgumentParser(prog="python -m specgrove.training", description=__doc__)
    parser.add_argument("stage", choices=tuple(STAGES))
    parser.add_argument(
        "--target", default=DEMO_LLM, help="the LLM: whatever `specgrove serve --llm` takes (default: the demo model)"
    )
    parser.add_argument(
        "--data", type=Path, default=cache_dir / "distillation", help="generated data and checkpoints, of one LLM"
    )
    parser.add_argument(
        "--prompts", type=Path,
        help="a .json file (a list of texts), a .txt file (a prompt a line), or a folder of them. generate: without, the LLM invents all; "
        "evaluate: without, some of our own",
    )  # fmt: skip
    parser.add_argument(
        "--model", type=Path, default=cache_dir / "drafter", help="the drafter's folder: written, evaluated"
    )
    parser.add_argument(
        "--num-tokens", type=_count, default=1_000_000, help="generate: tokens of data (default %(default)s)"
    )
    parser.add_argument(
        "--workers", type=_count, default=available_cpus(), help="generate, train: processes (default: cores)"
    )
    parser.add_argument(
        "--minutes", type=_minutes, default=20.0, help="train: wall-clock minutes (default %(default)s)"
    )
    parser.add_argument("--draft-vocab-size", type=_count, default=shape.draft_vocab_size)
    parser.add_argument("--hidden-size", type=_count, default=shape.hidden_size)
    parser.add_argument("--intermediate-size", type=_count, default=shape.intermediate_size)
    parser.add_argument("--num-layers", type=_count, default=shape.num_layers)
    parser.add_argument("--num-prompts", type=_count, default=64, help="evaluate: so many of the prompts at most")
    parser.add_argument(
        "--answer-len", type=_count, default=128, help="evaluate: tokens per answer (default %(default)s)"
    )
    parser.add_argument("--cache-dir", type=Path, default=cache_dir, help="converted models")
    return parser.parse_args(argv)


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number of at least 1")
    return int(text)


def _minutes(text: str) -> float:
    try:
        minutes = float(text)
    except ValueError:
        minutes = 0.0
    if not 0 < minutes < 1e6:
        raise argparse.ArgumentTypeError(f"{text!r} is no number of minutes above 0")
    return minutes

"""What ``specgrove ssm train`` and ``specgrove ssm evaluate`` are asked for, as data. Made by the command line; imports no torch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

Kind = Literal["head", "decoder"]


@dataclass(frozen=True, slots=True)
class DecoderShape:
    """Sizes of an SSM of kind ``decoder``, in elements. ``draft_vocab_size`` counts the unknown id."""

    draft_vocab_size: int = 12288
    hidden_size: int = 320
    intermediate_size: int = 896
    num_layers: int = 2
    num_heads: int = 4
    num_kv_heads: int = 2
    head_dim: int = 64


@dataclass(frozen=True, slots=True)
class HeadShape:
    """Of an SSM of kind ``head``; the layer is as wide as the LLM's."""

    hidden_layers: tuple[int, ...] = ()  # empty: one in the middle, one at four fifths, and the last state
    hidden_window: int = 128
    candidate_rank: int = 64
    num_candidates: int = 128


@dataclass(frozen=True, slots=True, kw_only=True)
class SharedOptions:
    """What both commands are asked for."""

    llm: str
    data: tuple[Path, ...]  # prompts; none: the LLM invents all, and is measured on some of our own
    work_dir: Path | None  # recordings and checkpoints; None: below the cache
    cache_dir: Path
    workers: int = 1
    answer_len: int = 128


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainOptions(SharedOptions):
    """``specgrove ssm train``."""

    kind: Kind
    out: Path
    num_tokens: int = 1_000_000
    boost: int = 1  # SSMs, each of which learns most where those before it fail
    passes: float = 3.0  # kind head
    minutes: float = 20.0  # kind decoder
    decoder: DecoderShape = DecoderShape()
    head: HeadShape = HeadShape()
    outputs: tuple[Path, ...] = ()  # dialogues of this LLM as token ids, read again instead of generated
    start: Path | None = None  # kind head: an SSM whose training goes on; None: the closed form
    num_held_out_prompts: int = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluateOptions(SharedOptions):
    """``specgrove ssm evaluate``."""

    ssm: Path
    num_prompts: int = 60

"""The LLM that a drafter is made for: found, checked and described before anything slow begins. Used by all stages.

Any model that is served can be a target. Invariant: what one LLM said is never taken for what another said: a data folder names its LLM.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from specgrove.files.json_files import read_json_object
from specgrove.kernels.quantized_linear import QuantizedWeight
from specgrove.models.decoder.ends import ends_of
from specgrove.models.decoder.family import family_of, read_spec
from specgrove.models.decoder.sharding import Shard
from specgrove.models.decoder.spec import DecoderSpec
from specgrove.models.folders.hub import resolve_model
from specgrove.models.folders.model_files import name_of
from specgrove.models.folders.weights_digest import weights_digest
from specgrove.models.weights.checkpoint import read_weights
from specgrove.models.weights.opening import check_weights, open_checkpoint
from specgrove.tokenizer import Tokenizer
from specgrove.training.shards import shard_paths

_LABEL_NAME = "target.json"


@dataclass(frozen=True, slots=True)
class Target:
    """One LLM."""

    folder: Path
    name: str
    spec: DecoderSpec
    tokenizer: Tokenizer
    end_ids: frozenset[int]
    """Tokens that end an answer."""


def open_target(model: str, cache_dir: Path, progress: Callable[[str], None]) -> Target:
    """``model`` is what ``serve`` takes. Raises ``ValueError``, ``OSError`` with what is wrong with it."""
    folder = resolve_model(model, cache_dir=cache_dir, progress=progress)
    spec, tokenizer = read_spec(folder), Tokenizer.from_folder(folder)
    with open_checkpoint(folder) as checkpoint:
        check_weights(folder, checkpoint)
    ends = ends_of(folder, tokenizer, spec.vocab_size)
    if not ends.chat:
        raise ValueError(f"{folder} names no token that ends an answer: set eos_token_id in its generation_config.json")
    return Target(folder, name_of(folder), spec, tokenizer, frozenset(ends.chat))


def head_rows(target: Target) -> torch.Tensor:
    """What the LLM ranks tokens with, ``[vocab_size, size]``: its head, which may be its embedding, by value."""
    family, _ = family_of(target.folder)
    with open_checkpoint(target.folder) as checkpoint:
        vocab = read_weights(family, checkpoint, target.spec, Shard.whole(target.spec)).head().vocab
        return vocab.dequantized() if isinstance(vocab, QuantizedWeight) else vocab.float()


def claim_data_folder(folder: Path, target: Target) -> None:
    """Notes whose outputs the folder holds. Raises ``ValueError`` where they are another LLM's."""
    label, identity = folder / _LABEL_NAME, _identity(target)
    if label.is_file():
        told = read_json_object(label)
        if told.text("identity", "") != identity:
            raise ValueError(
                f"{folder} holds data of {told.text('name', 'another LLM')}, not of {target.name}: name another folder with --data"
            )
    elif shard_paths(folder):
        raise ValueError(
            f"{folder} holds data of nobody knows which LLM: name another folder with --data, or remove it"
        )
    else:
        folder.mkdir(parents=True, exist_ok=True)
        label.write_text(json.dumps({"name": target.name, "identity": identity}, indent=2) + "\n", encoding="utf-8")


def _identity(target: Target) -> str:
    """The same for the same weights and tokenizer, wherever they lie."""
    return hashlib.sha256(f"{target.tokenizer.vocab_sha256} {weights_digest(target.folder)}".encode()).hexdigest()

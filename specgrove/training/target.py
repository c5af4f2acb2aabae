"""The LLM that a drafter is made for: found, checked and described before anything slow begins. Used by all stages.

Any model that is served can be a target. Invariant: what one LLM said is never taken for what another said: a data folder names its LLM.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch.nn import functional

from specgrove.files.json_files import read_json_object
from specgrove.kernels.quantized_linear import QuantizedWeight
from specgrove.models.decoder.ends import ends_of
from specgrove.models.decoder.family import family_of, read_spec
from specgrove.models.decoder.parameters import Weight
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


@dataclass(frozen=True, slots=True)
class TargetEnds:
    """What an LLM reads tokens with and ranks them with: an SSM that reads its hidden states shares them."""

    embedding: torch.Tensor  # float32 [vocab_size, hidden_size], scaled as the LLM scales it
    head: torch.Tensor  # float32 [vocab_size, hidden_size]
    norm: str  # that of the spec
    norm_eps: float
    norm_scale: torch.Tensor  # [hidden_size]
    norm_shift: torch.Tensor | None

    @property
    def state_gain(self) -> torch.Tensor:
        """What a root mean square norm must multiply by to give what the head reads, ``[hidden_size]``."""
        return (
            self.norm_scale if self.norm == "rms" else self.norm_scale.square().mean().sqrt().expand_as(self.norm_scale)
        )

    def normed_state(self, states: torch.Tensor) -> torch.Tensor:
        """States after the last layer as the head reads them, divided by ``state_gain``."""
        shape = (states.shape[-1],)
        if self.norm == "rms":
            return functional.rms_norm(states, shape, eps=self.norm_eps)
        normed = functional.layer_norm(states, shape, self.norm_scale, self.norm_shift, self.norm_eps)
        return normed / self.state_gain.clamp_min(1e-6)


def target_ends(target: Target) -> TargetEnds:
    """Raises ``ValueError`` for an LLM whose embedding or head is not as wide as its hidden states."""
    spec = target.spec
    family, _ = family_of(target.folder)
    with open_checkpoint(target.folder) as checkpoint:
        weights = read_weights(family, checkpoint, spec, Shard.whole(spec))
        embedding, head = weights.embedding(), weights.head()
        if head.projection is not None or embedding.projection is not None or head.norm is None:
            raise ValueError(
                f"{target.name} has an embedding of another size than its hidden states, or no last norm: train --kind decoder for it"
            )
        return TargetEnds(
            embedding.tokens.float() * spec.embedding_scale,
            _plain(head.vocab),
            spec.norm,
            spec.norm_eps,
            head.norm.scale.float(),
            None if head.norm.shift is None else head.norm.shift.float(),
        )


def head_rows(target: Target) -> torch.Tensor:
    """What the LLM ranks tokens with, ``[vocab_size, size]``: its head, which may be its embedding, by value."""
    family, _ = family_of(target.folder)
    with open_checkpoint(target.folder) as checkpoint:
        return _plain(read_weights(family, checkpoint, target.spec, Shard.whole(target.spec)).head().vocab)


def _plain(weight: Weight) -> torch.Tensor:
    return weight.dequantized() if isinstance(weight, QuantizedWeight) else weight.float()


def claim_data_folder(folder: Path, target: Target, hidden_layers: Sequence[int] = ()) -> None:
    """Notes whose outputs the folder holds, and which hidden states. Raises ``ValueError`` where they are others."""
    label, identity = folder / _LABEL_NAME, _identity(target)
    if label.is_file():
        told = read_json_object(label)
        name, layers = told.text("name", "another LLM"), told.text("hidden_layers", "")
        if told.text("identity", "") != identity:
            raise ValueError(
                f"{folder} holds data of {name}, not of {target.name}: name another folder with --work-dir"
            )
        if hidden_layers and layers != _words(hidden_layers):
            raise ValueError(
                f"{folder} was recorded with {f'hidden states of layers {layers}' if layers else 'no hidden states'}, "
                f"wanted are those of {_words(hidden_layers)}: name another folder with --work-dir"
            )
    elif shard_paths(folder):
        raise ValueError(
            f"{folder} holds data of nobody knows which LLM: name another folder with --work-dir, or remove it"
        )
    else:
        folder.mkdir(parents=True, exist_ok=True)
        words = {"name": target.name, "identity": identity, "hidden_layers": _words(hidden_layers)}
        label.write_text(json.dumps(words, indent=2) + "\n", encoding="utf-8")


def note_sources(folder: Path, names: Sequence[str]) -> None:
    """Notes where prompts of a claimed folder's recordings come from, beside those noted before."""
    label = folder / _LABEL_NAME
    words = json.loads(label.read_text(encoding="utf-8"))
    sources = list(dict.fromkeys([*sources_of(folder), *names]))
    label.write_text(json.dumps(words | {"prompt_sources": sources}, indent=2) + "\n", encoding="utf-8")


def sources_of(folder: Path) -> tuple[str, ...]:
    """Where its recordings' prompts come from, of all runs that wrote there; none: the LLM invented them."""
    return tuple(json.loads((folder / _LABEL_NAME).read_text(encoding="utf-8")).get("prompt_sources", ()))


def _words(hidden_layers: Sequence[int]) -> str:
    return " ".join(map(str, hidden_layers))


def _identity(target: Target) -> str:
    """The same for the same weights and tokenizer, wherever they lie."""
    return hashlib.sha256(f"{target.tokenizer.vocab_sha256} {weights_digest(target.folder)}".encode()).hexdigest()

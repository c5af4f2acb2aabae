"""Tensors of published EAGLE-3 checkpoints under our own format's names, and what they tell of the ``HiddenSsmSpec``.

Strict: one that has no place is refused by its name, and none may be missing.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from specgrove.models.errors import UnsupportedModelError
from specgrove.models.hidden_state.spec import HiddenSsmSpec

HEAD, EMBEDDING = "lm_head.weight", "embed_tokens.weight"
TOKEN_MAP_FILE = "speculative_token_map.pt"
_LAYER = re.compile(r"(midlayer|layers\.0)\.(?P<rest>.+)")
_IN_LAYER = {
    "input_layernorm": "input_norm", "hidden_norm": "hidden_norm", "post_attention_layernorm": "post_attention_norm",
    **{f"self_attn.{name}": name for name in ("q_proj", "k_proj", "v_proj", "o_proj", "q_norm", "k_norm")},
    **{f"mlp.{name}": name for name in ("gate_proj", "up_proj", "down_proj")},
}  # fmt: skip
_OUTSIDE = ("fc.weight", "norm.weight", HEAD, EMBEDDING, "d2t", "t2d")


@dataclass(frozen=True, slots=True)
class PublishedTensors:
    """A checkpoint's. ``layer`` has the names of our own format; ``head`` is ``[head_size, hidden_size]``, its rows by rising id."""

    layer: Mapping[str, torch.Tensor]
    head: torch.Tensor | None
    embedding: torch.Tensor | None
    token_ids: torch.Tensor | None
    """int64 ``[draft_vocab_size]``, rising: the LLM's ids of the head's rows."""


def published_tensors(
    spec: HiddenSsmSpec, stored: Mapping[str, torch.Tensor], folder: Path
) -> tuple[HiddenSsmSpec, PublishedTensors]:
    """The spec with what the tensors tell, and these. Raises ``UnsupportedModelError`` that names the tensor."""
    named: dict[str, torch.Tensor] = {}
    stored_as: dict[str, str] = {}
    for name, tensor in stored.items():
        own = _own_name(name, folder)
        if (other := stored_as.setdefault(own, name)) != name:
            raise UnsupportedModelError(
                f"{folder} has both {other} and {name}, which are one tensor: leave one of them"
            )
        named[own] = tensor
    head, embedding = named.pop(HEAD, None), named.pop(EMBEDDING, None)
    offsets, is_drafted = named.pop("d2t", None), named.pop("t2d", None)
    spec = replace(
        spec,
        has_query_key_norms="layer.q_norm.weight" in named,
        has_attention_bias="layer.q_proj.bias" in named,
        has_own_head=head is not None,
        has_own_embedding=embedding is not None,
    )
    token_ids = None
    if spec.draft_vocab_size is not None:
        if head is None:
            raise UnsupportedModelError(
                f"{folder} lacks the tensor {HEAD}, though config.json says that its vocabulary has {spec.draft_vocab_size} tokens"
            )
        token_ids = _token_ids_of(spec, offsets, is_drafted, folder)
        order = token_ids.argsort()
        token_ids, head = token_ids[order], _checked(head, HEAD, (spec.head_size, spec.hidden_size), folder)[order]
    elif offsets is not None and offsets.any():
        raise UnsupportedModelError(f"{folder} has the tensor d2t, though config.json has no draft_vocab_size")
    if head is not None:
        _checked(head, HEAD, (spec.head_size, spec.hidden_size), folder)
    if embedding is not None:
        _checked(embedding, EMBEDDING, (spec.vocab_size, spec.hidden_size), folder)
    return spec, PublishedTensors(named, head, embedding, token_ids)


def _own_name(name: str, folder: Path) -> str:
    bare = name.removeprefix("model.")
    if (match := _LAYER.fullmatch(bare)) is not None:
        place, _, kind = match["rest"].rpartition(".")
        if place in _IN_LAYER and kind in ("weight", "bias"):
            return f"layer.{_IN_LAYER[place]}.{kind}"
    elif bare in _OUTSIDE:
        return bare
    elif bare.startswith("fc_norm."):
        return "tap_norms." + bare.removeprefix("fc_norm.")
    elif bare == "input_norm.weight":
        return "joint_norm.weight"
    raise UnsupportedModelError(
        f"{folder} has the tensor {name}, which an EAGLE-3 layer doesn't have: it may be of another kind, or newer"
    )


def _token_ids_of(
    spec: HiddenSsmSpec, offsets: torch.Tensor | None, is_drafted: torch.Tensor | None, folder: Path
) -> torch.Tensor:
    """The LLM's id of each row of the head, by ``d2t``: an offset to its place."""
    size = spec.draft_vocab_size
    assert size is not None
    if offsets is not None:
        if offsets.is_floating_point():  # in 16 bits other ids would come of them, without a word
            raise UnsupportedModelError(
                f"{folder}: d2t holds {offsets.dtype}, it should hold whole numbers, as torch.int64"
            )
        ids = _checked(offsets, "d2t", (size,), folder).long() + torch.arange(size)
    else:
        raise UnsupportedModelError(
            f"{folder} lacks the tensor d2t: nothing tells which {size} tokens its head is of; NeMo AutoModel keeps that in a file "
            f"of its own, {TOKEN_MAP_FILE}: with `specgrove models convert {folder} NEW_FOLDER` it becomes a tensor"
        )
    if len(set(ids.tolist())) != size or not 0 <= int(ids.min()) <= int(ids.max()) < spec.vocab_size:
        raise UnsupportedModelError(
            f"{folder}: its map of tokens (d2t) doesn't name {size} of {spec.vocab_size} tokens, each once"
        )
    if is_drafted is not None:
        is_drafted = _checked(is_drafted, "t2d", (spec.vocab_size,), folder).bool()
        if not torch.equal(is_drafted.nonzero().flatten(), ids.sort().values):
            raise UnsupportedModelError(f"{folder}: the tensors d2t and t2d name different tokens")
    return ids


def _checked(tensor: torch.Tensor, name: str, shape: tuple[int, ...], folder: Path) -> torch.Tensor:
    if tuple(tensor.shape) != shape:
        raise UnsupportedModelError(
            f"{folder}: {name} has the shape {list(tensor.shape)}, by config.json it should have {list(shape)}"
        )
    return tensor

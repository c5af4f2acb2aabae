"""Under which of the usual prefixes a checkpoint keeps a family's tensors, and which of its other tensors may be left unread.

Called by ``specgrove.models.weights.opening``. The same weights are saved with the whole model's names, with the bare model's, or inside a
model that also sees or hears; transformers loads all of these, and so do we: the families know one name for every tensor.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

from specgrove.models.errors import UnsupportedModelError

HEAD_NAME = "lm_head.weight"
_HEAD = "lm_head."
# What may stand before the family's own prefix, or in its place.
_OUTER = ("", "model.", "transformer.", "language_model.", "model.language_model.", "language_model.model.", "decoder.",
          "model.text_model.", "text_model.", "llm.", "module.", "_orig_mod.", "_fsdp_wrapped_module.", "base_model.",
          "base_model.model.")  # fmt: skip
# Buffers that are computed anew; scales of activations and of caches in 8 bits, which stay in 16; parts of models that do more than read
# and write text; and what training keeps beside a model: its value head, and states of modules.
_HARMLESS = re.compile(
    r"(^|\.)(rotary_emb|rotary)\.(inv_freq|cos_cached|sin_cached)$|(^|\.)attn\.(masked_)?bias$|(^|\.)position_ids$"
    r"|\.(input_scale|input_scale_ub|activation_scale|k_scale|v_scale|q_scale|kv_scale|prob_scale|output_scale)$"
    r"|^v_head\.|\._extra_state$"
    r"|(^|\.)(vision_tower|vision_model|visual|audio_tower|multi_modal_projector|embed_vision|embed_audio|mtp|mtp_layers)\."
)
_SHOWN = 3


@dataclass(frozen=True, slots=True)
class FamilyNames:
    """How a family's module names its tensors: those of the layers are ``base + layers + "0."`` and so on."""

    base: str
    layers: str
    embedding: str
    """Without ``base`` and ``.weight``."""


def canonical_names(stored: Collection[str], family: FamilyNames, *, has_tied_head: bool) -> dict[str, str]:
    """The family's names to those in the files. Names of no known place stay as they are.

    A tied checkpoint that kept only its head has its embedding there too. Raises ``UnsupportedModelError`` where no layer is found.
    """
    prefix = _prefix_of(stored, family)
    heads = _heads_of(stored, prefix)
    names = {}
    for name in stored:
        if name.startswith(heads):
            names[_HEAD + name.removeprefix(heads)] = name
        elif name.startswith(prefix):
            names[family.base + name.removeprefix(prefix)] = name
        else:
            names[name] = name
    embedding = f"{family.base}{family.embedding}.weight"
    if has_tied_head and embedding not in names and HEAD_NAME in names:
        names[embedding] = names[HEAD_NAME]
    return names


def _prefix_of(stored: Iterable[str], family: FamilyNames) -> str:
    """What stands before ``layers`` in the files. The family's own comes first."""
    first = re.compile(rf"(.*?\.)??{re.escape(family.layers)}0\.")
    found = {match[1] or "" for name in stored if (match := first.match(name))}
    known = [family.base, *_OUTER, *(outer + family.base for outer in _OUTER)]
    for prefix in known:
        if prefix in found:
            return prefix
    names = sorted(stored)
    wanted = f"{family.base}{family.layers}0.…"
    raise UnsupportedModelError(
        f"has no tensors {wanted}, under no usual prefix either; it has {_listed(names)}: "
        "are the configuration and the weights of one model?"
    )


def _heads_of(stored: Iterable[str], prefix: str) -> str:
    """The head stands beside the bare model, or beside what holds it."""
    parts = prefix.split(".")
    places = [".".join(parts[:end]) + "." if end else "" for end in range(len(parts))]
    return next((place + _HEAD for place in places if any(name.startswith(place + _HEAD) for name in stored)), _HEAD)


def unread_names(names: Iterable[str], read: Collection[str]) -> tuple[list[str], list[str]]:
    """The tensors that nobody reads: first those that change a model's answers, then those that don't."""
    left = sorted(name for name in names if name not in read)
    return [name for name in left if not _HARMLESS.search(name)], [name for name in left if _HARMLESS.search(name)]


def check_all_read(names: Iterable[str], read: Collection[str], architecture: str) -> str | None:
    """What to say of tensors that may be left out, None where there are none. Raises ``UnsupportedModelError`` for others."""
    wrong, harmless = unread_names(names, read)
    if wrong:
        raise UnsupportedModelError(
            f"has {len(wrong)} tensors that {architecture} as config.json describes it has not: {_listed(wrong)}. Without them the "
            "answers would be wrong: are the configuration and the weights of one model, and is it quantised in a way that "
            "config.json doesn't tell?"
        )
    return f"{len(harmless)} tensors are not needed and left out: {_listed(harmless)}" if harmless else None


def _listed(names: list[str]) -> str:
    kinds: Mapping[str, str] = {re.sub(r"\.\d+\.", ".*.", name): name for name in reversed(names)}
    shown = sorted(kinds.values())[:_SHOWN]
    return (
        ", ".join(shown) + (f" and {len(names) - len(shown)} more" if len(names) > len(shown) else "") or "none at all"
    )

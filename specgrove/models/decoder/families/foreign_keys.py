"""Keys of ``config.json`` by which other models compute something else, and which would be passed over here.

Read by ``specgrove.models.decoder.family`` for all families. A configuration may name one architecture and mean another, or a variant of
it that only its makers' own code knows; its tensors don't always tell.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from specgrove.files.json_files import JsonObject
from specgrove.models.errors import UnsupportedModelError

_NONE = (0, False)  # values, beside null, that ask for nothing
_FACTOR = (1,)
_KEYS: Mapping[str, tuple[tuple[Any, ...], tuple[str, ...]]] = {
    # By key: values that change nothing, and the families that read it.
    "embedding_multiplier": (_FACTOR, ("granite",)),
    "attention_multiplier": ((), ("granite",)),
    "residual_multiplier": (_FACTOR, ("granite",)),
    "logits_scaling": (_FACTOR, ("granite",)),
    "attn_logit_softcapping": (_NONE, ("gemma2", "gemma3")),
    "final_logit_softcapping": (_NONE, ("gemma2", "gemma3")),
    "query_pre_attn_scalar": ((), ("gemma2", "gemma3")),
    "rope_local_base_freq": ((), ("gemma3",)),
    "logit_scale": (_FACTOR, ("mpt",)),
    "scale_emb": (_FACTOR, ()),
    "scale_depth": (_NONE, ()),
    "dim_model_base": ((), ()),
    "clip_qkv": (_NONE, ()),
    "attention_chunk_size": (_NONE, ()),
    "interleaved_sliding_window": (_NONE, ()),
    "no_rope_layer_interval": (_NONE, ()),
    "partial_rotary_factor": (_FACTOR, ()),
    "rotary_pct": (_FACTOR, ()),
    "rope_interleave": (_NONE, ()),
    "use_bidirectional_attention": (_NONE, ()),
    "is_causal": ((True,), ()),
}


def refuse_foreign_keys(config: JsonObject, family: str) -> None:
    """Raises ``UnsupportedModelError`` with the first key that asks for what ``family`` doesn't do."""
    for key, (harmless, readers) in _KEYS.items():
        if family not in readers and config.has(key) and config[key] not in harmless:
            raise UnsupportedModelError(
                f"{key} is not supported, and config.json has {config[key]!r} for it: answers would be wrong without it; remove the "
                "key if it is of another model"
            )
    if any(has_rope != 1 for has_rope in _listed(config, "no_rope_layers")):
        raise UnsupportedModelError("no_rope_layers is not supported: all layers have positions here")


def _listed(config: JsonObject, key: str) -> list[Any]:
    value = config.get(key)
    return value if isinstance(value, list) else []

"""``config.json`` of our own folders of SSMs that read hidden states: to a ``HiddenSsmSpec`` and back. Strict both ways.

Written by training, read at loading. Imports no torch. Invariant: a key that isn't known is refused.
"""

from __future__ import annotations

from typing import Any

from specgrove.config import MAX_NOISE_WEIGHT
from specgrove.files.json_files import JsonObject
from specgrove.models.decoder.rope_config import rotary_of
from specgrove.models.errors import UnsupportedModelError
from specgrove.models.hidden_state.config_lists import layer_numbers, numbers_between
from specgrove.models.hidden_state.spec import Calibration, HiddenSsmSpec

ARCHITECTURE = "SpecGroveHiddenStateSsm"
_KEYS = frozenset({
    "architectures", "hidden_size", "target_hidden_size", "intermediate_size", "num_attention_heads", "num_key_value_heads", "head_dim",
    "rms_norm_eps", "rope_theta", "rope_scaling", "max_position_embeddings", "vocab_size", "hidden_layers", "hidden_window",
    "candidate_rank", "num_candidates", "feeds_normed_state", "norms_each_layer", "has_embedding_residual", "has_fed_back_map",
    "calibration", "first_choice_floor", "vocab_sha256", "quantization_config",
})  # fmt: skip
_DEPTH_SCALES = (1e-3, 1e3)  # scores are divided by them, in float32
_CALIBRATION_KEYS = frozenset({"depth_scales", "noise_weight"})


def own_spec_of(config: JsonObject) -> HiddenSsmSpec:
    """Raises ``JsonFileError`` and ``UnsupportedModelError`` that name the key."""
    _refuse_unknown(config, _KEYS)
    max_positions = config.size("max_position_embeddings")
    floor = config.number("first_choice_floor") if config.has("first_choice_floor") else None
    if floor is not None and not 0 <= floor <= 1:
        raise config.error("first_choice_floor", "a share from 0 to 1")
    return HiddenSsmSpec(
        hidden_size=config.size("hidden_size"),
        target_hidden_size=config.size("target_hidden_size"),
        intermediate_size=config.size("intermediate_size"),
        num_heads=config.size("num_attention_heads"),
        num_kv_heads=config.size("num_key_value_heads"),
        head_dim=config.size("head_dim"),
        norm_eps=config.positive("rms_norm_eps"),
        rotary=rotary_of(config, config.positive("rope_theta"), max_positions),
        max_position_embeddings=max_positions,
        vocab_size=config.size("vocab_size"),
        hidden_layers=layer_numbers(config, "hidden_layers"),
        hidden_window=config.size("hidden_window"),
        input_norms="each" if config.flag("norms_each_layer", False) else "none",
        feeds_normed_state=config.flag("feeds_normed_state", False),
        has_embedding_residual=config.flag("has_embedding_residual", False),
        has_fed_back_map=config.flag("has_fed_back_map", False),
        candidate_rank=config.size("candidate_rank") if config.has("candidate_rank") else None,
        num_candidates=config.size("num_candidates", 64),
        calibration=_calibration_of(config.object("calibration")),
        first_choice_floor=floor,
        vocab_sha256=config.text("vocab_sha256", ""),
    )


def _refuse_unknown(config: JsonObject, known: frozenset[str]) -> None:
    if unknown := sorted(config.keys() - known):
        raise UnsupportedModelError(
            f"{config.place}: {', '.join(unknown)} is not known in a folder of the architecture {ARCHITECTURE}; known are "
            f"{', '.join(sorted(known))}: a newer SpecGrove may have written it"
        )


def _calibration_of(config: JsonObject) -> Calibration:
    _refuse_unknown(config, _CALIBRATION_KEYS)
    fitted = Calibration()
    noise_weight = config.positive("noise_weight", fitted.noise_weight)
    if noise_weight > MAX_NOISE_WEIGHT:
        raise config.error("noise_weight", f"at most {MAX_NOISE_WEIGHT:g}")
    return Calibration(
        numbers_between(config, "depth_scales", *_DEPTH_SCALES) if config.has("depth_scales") else fitted.depth_scales,
        noise_weight,
    )


def own_config_of(spec: HiddenSsmSpec) -> dict[str, Any]:
    """What ``own_spec_of`` makes ``spec`` of. Raises ``ValueError`` for what our own format doesn't have."""
    is_foreign = spec.input_norms == "joint" or spec.residual_is_normed or spec.has_query_key_norms
    is_foreign |= spec.has_attention_bias or spec.has_own_embedding or spec.has_own_head
    if is_foreign or spec.draft_vocab_size is not None or spec.rotary.scaling is not None:
        raise ValueError("our own format has none of what only published EAGLE-3 checkpoints have")
    optional: dict[str, Any] = {
        "candidate_rank": spec.candidate_rank, "first_choice_floor": spec.first_choice_floor, "vocab_sha256": spec.vocab_sha256 or None,
    }  # fmt: skip
    return {
        "architectures": [ARCHITECTURE],
        "hidden_size": spec.hidden_size,
        "target_hidden_size": spec.target_hidden_size,
        "intermediate_size": spec.intermediate_size,
        "num_attention_heads": spec.num_heads,
        "num_key_value_heads": spec.num_kv_heads,
        "head_dim": spec.head_dim,
        "rms_norm_eps": spec.norm_eps,
        "rope_theta": spec.rotary.theta,
        "max_position_embeddings": spec.max_position_embeddings,
        "vocab_size": spec.vocab_size,
        "hidden_layers": list(spec.hidden_layers),
        "hidden_window": spec.hidden_window,
        "num_candidates": spec.num_candidates,
        "norms_each_layer": spec.input_norms == "each",
        "feeds_normed_state": spec.feeds_normed_state,
        "has_embedding_residual": spec.has_embedding_residual,
        "has_fed_back_map": spec.has_fed_back_map,
        "calibration": {
            "depth_scales": list(spec.calibration.depth_scales),
            "noise_weight": spec.calibration.noise_weight,
        },
        **{key: value for key, value in optional.items() if value is not None},
    }

"""Rotary positions as ``config.json`` asks for them, from all the places where it may: to a ``RotarySpec`` and the longest context.

Used by the families. transformers 5 writes ``rope_parameters``, earlier versions ``rope_theta`` and ``rope_scaling``, and model cards
tell people to add ``rope_scaling`` to what is there. So the places are merged; where two of them say something different, that is an error.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from specgrove.files.json_files import JsonFileError, JsonObject
from specgrove.models.decoder.rotary_spec import (
    LinearScaling,
    Llama3Scaling,
    RotarySpec,
    Scaling,
    YarnScaling,
    yarn_mscale,
)
from specgrove.models.errors import UnsupportedModelError

_KINDS = ("default", "dynamic", "linear", "llama3", "yarn")
_READ = (
    "rope_type", "rope_theta", "partial_rotary_factor", "factor", "original_max_position_embeddings", "low_freq_factor",
    "high_freq_factor", "beta_fast", "beta_slow", "mscale", "mscale_all_dim", "attention_factor", "truncate",
)  # fmt: skip
# Of models that see, whose three positions are one for text; what was done in training; what stands beside it as well.
_HARMLESS = ("mrope_section", "mrope_interleaved", "finetuned", "max_position_embeddings")


def rotary_of(config: JsonObject, default_theta: float, max_positions: int) -> RotarySpec:
    """The rotary positions of a model whose layers all have the same. Raises ``JsonFileError``, ``UnsupportedModelError``."""
    rope = merged(
        config, {"rope_parameters": config.object("rope_parameters"), "rope_scaling": config.object("rope_scaling")}
    )
    return rotary_from(config, rope, "rope_theta", default_theta, max_positions)


def merged(config: JsonObject, places: Mapping[str, JsonObject]) -> JsonObject:
    """One object of several; a kind other than "default" replaces that one. Raises ``JsonFileError`` where they contradict each other."""
    values, said_by = dict[str, Any](), dict[str, str]()
    for rope in places.values():
        _refuse_nested(rope)
    for place, rope in places.items():
        for key, value in _normal(rope).items():
            if key not in values or (key == "rope_type" and values[key] == "default"):
                values[key], said_by[key] = value, place
            elif values[key] != value and not (key == "rope_type" and value == "default"):
                raise JsonFileError(
                    f"{config.place}: {said_by[key]} has {key} {values[key]!r} and {place} has {value!r}: leave one of them out"
                )
    return JsonObject(values, f"{config.place}: {' and '.join(place for place, rope in places.items() if rope)}")


def _refuse_nested(rope: JsonObject) -> None:
    """Values by kinds of layers, which some models' configurations have: here nobody would read them."""
    if nested := [key for key, value in rope.items() if isinstance(value, Mapping)]:
        raise JsonFileError(
            f"{rope.place} has {' and '.join(nested)} with values of their own, and all layers of this model have the same positions: "
            "write rope_type, rope_theta and the rest without them"
        )


def _normal(rope: JsonObject) -> dict[str, Any]:
    """``rope_type`` went by the name of ``type``."""
    values = {key: value for key, value in rope.items() if value is not None}
    kind = values.pop("type", None)
    if (
        kind is not None
        and values.setdefault("rope_type", kind) != kind
        and "default" not in (kind, values["rope_type"])
    ):
        raise JsonFileError(
            f"{rope.place} has the type {kind!r} and the rope_type {values['rope_type']!r}: leave one of them out"
        )
    return values


def rotary_from(
    config: JsonObject, rope: JsonObject, theta_key: str, default_theta: float, max_positions: int
) -> RotarySpec:
    """``theta_key`` is where ``config`` may have the base, apart from ``rope``. Raises ``JsonFileError``, ``UnsupportedModelError``."""
    if rope.number("partial_rotary_factor", 1.0) != 1.0:
        raise UnsupportedModelError("partial_rotary_factor is not supported, only rotations of whole heads")
    # Other engines read further factors, which are 1 where they do nothing.
    if unknown := [key for key in rope if key not in (*_READ, *_HARMLESS) and rope[key] not in (1, False)]:
        raise UnsupportedModelError(
            f"{rope.place} has {unknown[0]}, which is not supported: remove it if nothing reads it"
        )
    theta = rope.positive("rope_theta", config.positive(theta_key, default_theta))
    if config.has(theta_key) and config.number(theta_key) != theta:
        raise JsonFileError(
            f"{rope.place} has the rope_theta {theta:g} and {theta_key} is {config.number(theta_key):g}: leave one of them out"
        )
    if not rope.has("rope_type") and rope.has("factor"):
        raise JsonFileError(f"{rope.place} has a factor and no rope_type: say which of {', '.join(_KINDS)} it is")
    kind = rope.text("rope_type", "default")
    if kind not in _KINDS:
        raise UnsupportedModelError(f"rope type {kind!r} is not supported, only {', '.join(_KINDS)}")
    # "dynamic" rescales only beyond the positions the model was made for, which we never reach.
    scaling = None if kind in ("default", "dynamic") else _scaling(kind, theta, config, rope, max_positions)
    return RotarySpec(theta, scaling)


def _scaling(kind: str, theta: float, config: JsonObject, rope: JsonObject, max_positions: int) -> Scaling:
    if kind == "linear":
        return LinearScaling(_factor(rope))
    original = rope.size(
        "original_max_position_embeddings", config.size("original_max_position_embeddings", max_positions)
    )
    if kind == "llama3":
        low, high = rope.positive("low_freq_factor"), rope.positive("high_freq_factor")
        if high <= low:
            raise rope.error("high_freq_factor", f"above low_freq_factor ({low:g})")
        return Llama3Scaling(_factor(rope), low, high, original)
    if theta <= 1:  # its logarithm divides
        raise JsonFileError(f"{rope.place}: rope_theta is {theta:g}, with yarn it should be above 1")
    return _yarn(rope, original, max_positions)


def _factor(rope: JsonObject) -> float:
    if rope.number("factor") < 1:
        raise rope.error("factor", "a number of at least 1")
    return rope.number("factor")


def _yarn(rope: JsonObject, original: int, max_positions: int) -> YarnScaling:
    factor = _factor(rope) if rope.has("factor") else max_positions / original
    mscale, mscale_all_dim = rope.number("mscale", 0.0), rope.number("mscale_all_dim", 0.0)
    if rope.has("attention_factor"):
        attention_factor = rope.positive("attention_factor")
    elif mscale and mscale_all_dim:
        attention_factor = yarn_mscale(factor, mscale) / yarn_mscale(factor, mscale_all_dim)
    else:
        attention_factor = yarn_mscale(factor, 1.0)
    return YarnScaling(
        factor=factor,
        original_max_positions=original,
        beta_fast=_beta(rope, "beta_fast", 32.0),
        beta_slow=_beta(rope, "beta_slow", 1.0),
        attention_factor=attention_factor,
        truncates=rope.flag("truncate", True),
    )


def _beta(rope: JsonObject, key: str, default: float) -> float:
    """0 stands for the default, as in transformers."""
    return rope.positive(key) if rope.has(key) and rope.number(key) != 0 else default


def longest_context(rotary: RotarySpec | None, max_positions: int) -> int:
    """YaRN is there to reach beyond ``max_position_embeddings``, which configurations often leave as it was before it was added."""
    if rotary is None or not isinstance(rotary.scaling, YarnScaling):
        return max_positions
    return max(max_positions, int(rotary.scaling.factor * rotary.scaling.original_max_positions))

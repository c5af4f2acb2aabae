"""Which models can be served, by the architectures that ``config.json`` names. Read before anything is loaded; imports no torch."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from specgrove.files.json_files import JsonObject, read_json_object
from specgrove.models.errors import UnsupportedModelError

BY_FAMILY: Mapping[str, tuple[str, ...]] = {
    "llama": ("LlamaForCausalLM", "MistralForCausalLM", "Qwen2ForCausalLM", "Qwen3ForCausalLM"),
    "opt": ("OPTForCausalLM",),
    "falcon": ("FalconForCausalLM", "RWForCausalLM"),
    "gpt_bigcode": ("GPTBigCodeForCausalLM",),
    "mpt": ("MptForCausalLM", "MPTForCausalLM"),
    "gemma2": ("Gemma2ForCausalLM",),
    "gemma3": ("Gemma3ForCausalLM",),
    "granite": ("GraniteForCausalLM",),
}
"""By the module in ``specgrove.models.decoder.families``."""
ARCHITECTURES = tuple(name for names in BY_FAMILY.values() for name in names)
_OLD_NAMES = {"LLaMAForCausalLM": "LlamaForCausalLM"}
_BY_MODEL_TYPE = {
    "llama": "LlamaForCausalLM", "mistral": "MistralForCausalLM", "qwen2": "Qwen2ForCausalLM", "qwen3": "Qwen3ForCausalLM",
    "opt": "OPTForCausalLM", "falcon": "FalconForCausalLM", "gpt_bigcode": "GPTBigCodeForCausalLM", "mpt": "MptForCausalLM",
    "gemma2": "Gemma2ForCausalLM", "gemma3_text": "Gemma3ForCausalLM", "granite": "GraniteForCausalLM",
}  # fmt: skip
"""For configurations that name no architecture, as transformers chooses it."""


def architecture_of_type(config: JsonObject) -> str | None:
    """What ``model_type`` stands for; None where it is left out, or of no served model."""
    return _BY_MODEL_TYPE.get(config.text("model_type", ""))


def family_name_of(folder: Path) -> tuple[str, JsonObject]:
    """The family of a model folder and its ``config.json``, which names the architecture in any case.

    Raises ``UnsupportedModelError``, ``JsonFileError``.
    """
    config = read_json_object(folder / "config.json")
    config.object("quantization_config")  # no text or list, which those that read it would take for none
    named = config.texts("architectures")
    architectures = [_OLD_NAMES.get(name, name) for name in named]
    if not named and (by_type := architecture_of_type(config)) is not None:
        architectures = [by_type]
    for family, known in BY_FAMILY.items():
        if set(architectures) & set(known):
            return family, JsonObject({**config, "architectures": architectures}, config.place)
    told = f"architecture {', '.join(named)} is not supported" if named else "config.json names no architecture"
    raise UnsupportedModelError(f"{folder}: {told}, only {', '.join(ARCHITECTURES)} are")

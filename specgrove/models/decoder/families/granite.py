"""Granite 3 (IBM): Llama with four factors: of the embedding, of attention's scores, of what attention and MLP add, of the logits.

Source of the names and defaults: ``GraniteConfig`` and ``GraniteForCausalLM`` of Hugging Face transformers.
"""

from __future__ import annotations

from dataclasses import replace

from specgrove.files.json_files import JsonObject
from specgrove.models.decoder.families import llama
from specgrove.models.decoder.spec import DecoderSpec

NAMES = llama.NAMES
weights_of = llama.weights_of


def spec_of(config: JsonObject) -> DecoderSpec:
    """Raises ``UnsupportedModelError`` for what is not Llama as SpecGrove runs it."""
    return replace(
        llama.spec_of(config),
        embedding_scale=config.positive("embedding_multiplier", 1.0),
        attention_scale=config.positive("attention_multiplier", 1.0),
        residual_scale=config.positive("residual_multiplier", 1.0),
        logit_scale=1.0 / config.positive("logits_scaling", 1.0),
    )

"""``config.json`` of published EAGLE-3 checkpoints, in three flavours, to a ``HiddenSsmSpec``. Imports no torch.

Strict: a key that isn't known to say nothing of the structure is refused by its name, since an SSM that is wired wrongly fails silently.
One key may mean two things: ``norm_output`` is in SpecForge's files whether the head reads the last norm, in those of speculators whether
the next step does. So are layers counted by what goes into them (speculators), or by what comes out of the one before (SpecForge).
"""

from __future__ import annotations

from typing import Literal

from specgrove.files.json_files import JsonFileError, JsonObject
from specgrove.models.decoder.rope_config import rotary_of
from specgrove.models.decoder.spec import DecoderSpec
from specgrove.models.errors import UnsupportedModelError
from specgrove.models.hidden_state.config_lists import layer_numbers
from specgrove.models.hidden_state.spec import HiddenSsmSpec

EAGLE, SPEC_FORGE, SPECULATORS = "EAGLE", "SpecForge", "speculators"
"""Flavours: yuhuili's checkpoints; those of SpecForge, SGLang and NeMo AutoModel; those of speculators (vLLM, RedHatAI)."""
_SPEC_FORGE_NAMES = ("LlamaForCausalLMEagle3",)
_SPECULATORS_NAMES = ("Eagle3Speculator", "Eagle3DraftModel")
_PUBLISHED_WINDOW = 512
"""Their attention sees all; of a prompt's hidden states this many rows are enough, and what costs is their way here."""

_SAYS_NOTHING = {
    "architectures", "auto_map", "model_type", "torch_dtype", "dtype", "transformers_version", "bos_token_id", "eos_token_id",
    "pad_token_id", "use_cache", "initializer_range", "pretraining_tp", "attention_dropout", "_name_or_path", "name_or_path", "modules",
    "keys_to_ignore_at_inference", "unsloth_version", "return_dict", "output_attentions", "output_hidden_states", "is_decoder",
    "chunk_size_feed_forward",
}  # fmt: skip
_LAYER_KEYS = {
    "hidden_size", "intermediate_size", "num_attention_heads", "num_key_value_heads", "head_dim", "rms_norm_eps", "hidden_act",
    "rope_theta", "rope_scaling",
    "rope_parameters", "max_position_embeddings", "num_hidden_layers", "attention_bias", "mlp_bias", "vocab_size",
    "tie_word_embeddings", "sliding_window", "use_sliding_window", "max_window_layers", "layer_types",
}  # fmt: skip
_KEYS = {
    EAGLE: {"draft_vocab_size", "target_hidden_size"},
    SPEC_FORGE: {"draft_vocab_size", "target_hidden_size", "eagle_config", "fc_norm", "norm_output"},
    SPECULATORS: {
        "draft_vocab_size", "target_hidden_size", "norm_before_residual", "norm_before_fc", "fc_norm", "norm_output",
        "eagle_aux_hidden_state_layer_ids", "transformer_layer_config", "speculators_config", "speculators_model_type",
        "speculators_version", "has_no_defaults_at_init", "embed_requires_grad", "tie_word_embeddings",
    },
}  # fmt: skip
_EAGLE_CONFIG_KEYS = {"eagle_aux_hidden_state_layer_ids", "use_aux_hidden_state"}


def flavour_of(config: JsonObject) -> str | None:
    """The flavour that a configuration is of; ``None`` for what is no published EAGLE-3 checkpoint."""
    named = set(config.texts("architectures"))
    if named & set(_SPECULATORS_NAMES):
        return SPECULATORS
    if named & set(_SPEC_FORGE_NAMES):
        return SPEC_FORGE
    is_eagle = named == {"LlamaForCausalLM"} and "draft_vocab_size" in config
    return EAGLE if is_eagle else None


def published_spec_of(config: JsonObject, llm: DecoderSpec) -> HiddenSsmSpec:
    """What a checkpoint is, for an LLM. What only its tensors tell is filled in by ``published_tensors``.

    Raises ``UnsupportedModelError`` and ``JsonFileError`` that name the key.
    """
    flavour = flavour_of(config)
    assert flavour is not None
    _check_kind(config, flavour)
    layer = config.object("transformer_layer_config") if flavour == SPECULATORS else config
    own_keys = _KEYS[flavour] | (set() if flavour == SPECULATORS else _LAYER_KEYS)
    _refuse_unknown(config, own_keys, flavour)
    if flavour == SPECULATORS:
        _refuse_unknown(layer, _LAYER_KEYS, flavour)
    _check_layer(layer, flavour)
    vocab_size = layer.size("vocab_size", llm.vocab_size)
    if vocab_size != llm.vocab_size:
        raise UnsupportedModelError(
            f"{layer.place}: vocab_size is {vocab_size}, the LLM's is {llm.vocab_size}: the SSM was made for another model"
        )
    hidden_size = layer.size("hidden_size")
    target_hidden_size = config.size("target_hidden_size", hidden_size)
    if target_hidden_size != llm.hidden_size:
        raise UnsupportedModelError(
            f"{config.place}: it reads hidden states of {target_hidden_size} numbers, the LLM's have {llm.hidden_size}: the SSM "
            "was made for another model"
        )
    num_heads = layer.size("num_attention_heads")
    max_positions = layer.size("max_position_embeddings", 2048)
    is_own_head_small = config.has("draft_vocab_size") and config.size("draft_vocab_size") != vocab_size
    return HiddenSsmSpec(
        hidden_size=hidden_size,
        target_hidden_size=target_hidden_size,
        intermediate_size=layer.size("intermediate_size"),
        num_heads=num_heads,
        num_kv_heads=layer.size("num_key_value_heads", num_heads),
        head_dim=layer.size("head_dim", hidden_size // num_heads),
        norm_eps=layer.positive("rms_norm_eps", 1e-6),
        rotary=rotary_of(layer, 10000.0, max_positions),
        max_position_embeddings=llm.max_position_embeddings,  # pairs have the LLM's positions
        vocab_size=vocab_size,
        hidden_layers=_layers_of(config, flavour, llm),
        hidden_window=min(_PUBLISHED_WINDOW, max_positions),
        input_norms=_input_norms_of(config),
        residual_is_normed=config.flag("norm_before_residual", False),
        feeds_normed_state=flavour == SPECULATORS and config.flag("norm_output", False),
        draft_vocab_size=config.size("draft_vocab_size") if is_own_head_small else None,
    )


def _check_kind(config: JsonObject, flavour: str) -> None:
    if flavour == SPECULATORS and config.text("speculators_model_type", "eagle3") != "eagle3":
        raise config.error("speculators_model_type", '"eagle3"')
    if flavour == SPEC_FORGE:
        eagle = config.object("eagle_config")
        _refuse_unknown(eagle, _EAGLE_CONFIG_KEYS, flavour)
        if not eagle.flag("use_aux_hidden_state", True):
            raise UnsupportedModelError(
                f"{eagle.place}: use_aux_hidden_state is false: an EAGLE-3 layer reads three of them"
            )
        if not config.flag("norm_output", True):
            raise UnsupportedModelError(
                f"{config.place}: norm_output is false: a head that reads states without the last norm is not supported"
            )


def _refuse_unknown(config: JsonObject, known: set[str], flavour: str) -> None:
    unknown = sorted(key for key in config.keys() - known - _SAYS_NOTHING if config.has(key))
    if unknown:
        raise UnsupportedModelError(
            f"{config.place}: {', '.join(unknown)} is not known in a checkpoint of EAGLE-3 ({flavour}'s flavour): it may change what "
            "the layer computes, and nothing is left out silently"
        )


def _check_layer(layer: JsonObject, flavour: str) -> None:
    # The makers' own code makes one layer whatever it says: EAGLE3-Vicuna1.3-13B has the LLM's 40.
    if flavour != EAGLE and layer.size("num_hidden_layers", 1) != 1:
        raise layer.error("num_hidden_layers", "1: an SSM that reads hidden states has one layer")
    if layer.text("hidden_act", "silu") != "silu":
        raise layer.error("hidden_act", '"silu"')
    if layer.flag("mlp_bias", False):
        raise layer.error("mlp_bias", "false")
    if layer.flag("use_sliding_window", False):
        raise layer.error("use_sliding_window", "false")
    if layer.text("model_type", "llama") not in ("llama", "qwen3", "LlamaForCausalLMEagle3"):
        raise layer.error("model_type", '"llama" or "qwen3"')


def _layers_of(config: JsonObject, flavour: str, llm: DecoderSpec) -> tuple[int, ...]:
    """Counted by what goes into them."""
    key, place = "eagle_aux_hidden_state_layer_ids", config
    if flavour == SPEC_FORGE:
        place = config.object("eagle_config")
    if not place.has(key):
        layers: tuple[int, ...] = (2, llm.num_layers // 2, llm.num_layers - 3)
        if list(layers) != sorted(set(layers)):
            raise JsonFileError(
                f"{place.place}: {key} is missing, and an LLM of {llm.num_layers} layers has no usual ones"
            )
        return layers
    layers = layer_numbers(place, key)
    if flavour == SPEC_FORGE:
        layers = tuple(layer + 1 for layer in layers)
    if layers[-1] > llm.num_layers:
        raise place.error(key, f"layers of an LLM that has {llm.num_layers}")
    return layers


def _input_norms_of(config: JsonObject) -> Literal["none", "each", "joint"]:
    has_each, is_joint = config.flag("fc_norm", False), config.flag("norm_before_fc", False)
    if has_each and is_joint:
        raise UnsupportedModelError(f"{config.place}: fc_norm and norm_before_fc are both true: one of them can be")
    return "each" if has_each else "joint" if is_joint else "none"

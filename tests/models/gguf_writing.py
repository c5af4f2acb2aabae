"""Tiny random models of every family that GGUF files are served of, written with llama.cpp's own package as its converter would.

Names, the order of rows and what is added to norms are written out here, so that a wrong table in the reader is found.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch

from tests.conftest import TINY_VOCAB_SIZE

SUPER_BLOCK_TYPES = ("Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K")
SUPER_BLOCK_SIZES = {"hidden_size": 256, "intermediate_size": 256, "head_dim": 64}
# Where the float16 scales lie in a block, and scales that make weights of about 0.1.
_SCALES = {
    "Q2_K": {80: 3e-3, 82: 5e-3}, "Q3_K": {108: 2e-3}, "Q4_K": {0: 2e-4, 2: 1.5e-3}, "Q5_K": {0: 1e-4, 2: 1.5e-3},
    "Q6_K": {208: 5e-5},
}  # fmt: skip
_LAYER_NAMES = {
    "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output", "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down", "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm",
    "self_attn.q_norm": "attn_q_norm", "self_attn.k_norm": "attn_k_norm",
}  # fmt: skip
_GEMMA_NAMES = {
    "post_attention_layernorm": "post_attention_norm",
    "pre_feedforward_layernorm": "ffn_norm",
    "post_feedforward_layernorm": "post_ffw_norm",
}
TOKENS = ["<end>", *(chr(33 + i) for i in range(90)), "ab", "cd", "Ġ", "Ġa", "Ġab", "Ċ"]
NUM_HEADS, NUM_KV_HEADS, WINDOW = 4, 2, 4
GEMMAS = ("gemma2", "gemma3")
GRANITE_FACTORS = {
    "attention_multiplier": 0.4, "embedding_multiplier": 3.0, "residual_multiplier": 0.3, "logits_scaling": 2.5,
}  # fmt: skip


def tiny_model(family: str, **settings: Any) -> Any:
    """A transformers model with random weights, its norms' included."""
    import transformers

    names = {
        "llama": "Llama", "qwen2": "Qwen2", "qwen3": "Qwen3", "gemma2": "Gemma2", "gemma3": "Gemma3", "granite": "Granite",
    }  # fmt: skip
    text = "Text" if family == "gemma3" else ""
    config_class = getattr(transformers, f"{names[family]}{text}Config")
    of_family: dict[str, Any] = {"tie_word_embeddings": False}
    if family == "gemma3":
        of_family = {
            "sliding_window": WINDOW, "layer_types": ["sliding_attention", "full_attention"],
            "query_pre_attn_scalar": settings.get("head_dim", 16),
            "tie_word_embeddings": True,
            "rope_parameters": {
                "full_attention": {"rope_type": "linear", "rope_theta": 1e6, "factor": 8.0},
                "sliding_attention": {"rope_type": "default", "rope_theta": 10000.0},
            },
        }  # fmt: skip
    if family == "gemma2":
        of_family = {
            "sliding_window": WINDOW, "query_pre_attn_scalar": settings.get("head_dim", 16), "tie_word_embeddings": True,
            "attn_logit_softcapping": 0.7, "final_logit_softcapping": 1.5,
        }  # fmt: skip
    if family == "granite":
        of_family = GRANITE_FACTORS | {"tie_word_embeddings": True}
    shared = {
        "vocab_size": TINY_VOCAB_SIZE, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "head_dim": 16,
        "num_attention_heads": NUM_HEADS, "num_key_value_heads": NUM_KV_HEADS, "max_position_embeddings": 256,
        "initializer_range": 0.2, "rms_norm_eps": 1e-6, "eos_token_id": 0, "bos_token_id": None, "pad_token_id": None,
    }  # fmt: skip
    torch.manual_seed(4)
    config = config_class(**(shared | of_family | settings))
    if family == "gemma2":
        config._attn_implementation = "eager"  # others leave the caps out
    model = getattr(transformers, f"{names[family]}ForCausalLM")(config)
    for name, parameter in model.named_parameters():
        if parameter.ndim == 1:
            around = 0.0 if family in GEMMAS or "bias" in name else 1.0
            parameter.data = around + 0.2 * torch.randn_like(parameter)
    return model.eval()


def gguf_name(name: str, family: str) -> str:
    """llama.cpp's name of a weight of transformers."""
    if not name.startswith("model.layers."):
        stems = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output"}
        return stems[name.removesuffix(".weight")] + ".weight"
    _, _, index, rest = name.split(".", 3)
    stem, _, suffix = rest.rpartition(".")
    names = _LAYER_NAMES | (_GEMMA_NAMES if family in GEMMAS else {})
    return f"blk.{index}.{names[stem]}.{suffix}"


def _permuted(weight: np.ndarray, num_heads: int) -> np.ndarray:
    """As convert_hf_to_gguf.py of llama.cpp does it."""
    half = weight.shape[0] // num_heads // 2
    return weight.reshape(num_heads, 2, half, *weight.shape[1:]).swapaxes(1, 2).reshape(weight.shape)


def _unpermuted(weight: np.ndarray, num_heads: int) -> np.ndarray:
    return weight.reshape(num_heads, -1, 2, *weight.shape[1:]).swapaxes(1, 2).reshape(weight.shape)


def random_blocks(kind: str, shape: tuple[int, ...], generator: np.random.Generator) -> np.ndarray:
    """For types that the package can't make: any codes, with scales that make sensible weights."""
    block_len, block_bytes = gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType[kind]]
    blocks = generator.integers(0, 256, (shape[0] * shape[1] // block_len, block_bytes), dtype=np.uint8)
    for place, scale in _SCALES[kind].items():
        scales = (scale * generator.uniform(0.5, 1.5, len(blocks))).astype(np.float16)
        blocks[:, place : place + 2] = scales.view(np.uint8).reshape(-1, 2)
    return blocks.reshape(shape[0], -1)


def save_tiny_gguf(
    path: Path,
    kind: str,
    extra: Mapping[str, np.ndarray] | None = None,
    *,
    family: str = "llama",
    metadata: Mapping[str, Any] | None = None,
    without: tuple[str, ...] = (),
    split_max_tensors: int = 0,
    **settings: Any,
) -> dict[str, torch.Tensor]:
    """Saves a model as GGUF; returns the stored values in float32, under transformers' names.

    ``extra`` are further tensors, ``metadata`` further or other values (None leaves a key out), ``without`` names
    (llama.cpp's) to leave out; more than ``split_max_tensors`` tensors make several files.
    """
    if kind in SUPER_BLOCK_TYPES:
        settings = SUPER_BLOCK_SIZES | settings
    model = tiny_model(family, **settings)
    writer = gguf.GGUFWriter(path, family, split_max_tensors=split_max_tensors)
    _add_metadata(writer, family, model.config, metadata or {})
    generator, qtype, values = np.random.default_rng(4), gguf.GGMLQuantizationType[kind], {}
    for name, tensor in model.state_dict().items():
        if name == "lm_head.weight" and model.config.tie_word_embeddings:
            continue
        is_norm = name.endswith("norm.weight")
        data = tensor.float().numpy() + (1 if is_norm and family in GEMMAS else 0)
        num_heads = (
            {"q_proj": NUM_HEADS, "k_proj": NUM_KV_HEADS}.get(name.split(".")[-2])
            if family in ("llama", "granite")
            else None
        )
        data = data if num_heads is None else _permuted(data, num_heads)
        stored, value = data, data
        if data.ndim > 1:
            is_random = kind in SUPER_BLOCK_TYPES
            stored = random_blocks(kind, data.shape, generator) if is_random else gguf.quants.quantize(data, qtype)
            value = gguf.quants.dequantize(stored, qtype).reshape(data.shape)
        if gguf_name(name, family) not in without:
            writer.add_tensor(gguf_name(name, family), stored, raw_dtype=None if data.ndim == 1 else qtype)
        value = value if num_heads is None else _unpermuted(value, num_heads)
        value = value - np.float32(1) if is_norm and family in GEMMAS else value
        values[name] = torch.from_numpy(np.array(value, dtype=np.float32))
    for name, data in (extra or {}).items():
        writer.add_tensor(name, data)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return values


def _add_metadata(writer: gguf.GGUFWriter, family: str, config: Any, metadata: Mapping[str, Any]) -> None:
    writer.add_context_length(256)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_head_count(NUM_HEADS)
    writer.add_head_count_kv(NUM_KV_HEADS)
    writer.add_key_length(config.head_dim)
    writer.add_value_length(config.head_dim)
    writer.add_layer_norm_rms_eps(1e-6)
    if family == "gemma3":
        writer.add_rope_freq_base(1e6)
        writer.add_rope_scaling_type(gguf.RopeScalingType.LINEAR)
        writer.add_rope_scaling_factor(8.0)
        writer.add_sliding_window(WINDOW)
        writer.add_sliding_window_pattern(2)
    elif family == "gemma2":
        writer.add_attn_logit_softcapping(0.7)
        writer.add_final_logit_softcapping(1.5)
        writer.add_sliding_window(WINDOW)
    else:
        writer.add_rope_freq_base(10000.0)
        writer.add_rope_dimension_count(config.head_dim)
    if family == "granite":
        writer.add_attention_scale(GRANITE_FACTORS["attention_multiplier"])
        writer.add_embedding_scale(GRANITE_FACTORS["embedding_multiplier"])
        writer.add_residual_scale(GRANITE_FACTORS["residual_multiplier"])
        writer.add_logit_scale(GRANITE_FACTORS["logits_scaling"])
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list(TOKENS)
    writer.add_token_types([3] + [1] * (len(TOKENS) - 1))
    writer.add_token_merges(["a b", "c d", "Ġ a", "Ġa b"])
    writer.add_eos_token_id(0)
    for name, value in metadata.items():
        writer.kv_data[0].pop(name, None)
        if isinstance(value, list):
            writer.add_array(name, value)
        elif value is not None:
            kinds = {str: writer.add_string, bool: writer.add_bool, int: writer.add_int64, float: writer.add_float32}
            kinds[type(value)](name, value)

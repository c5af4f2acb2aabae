"""A GGUF file's metadata as the ``config.json`` and ``generation_config.json`` of a Llama. Called by ``specgrove.models.gguf_model``."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

from specgrove.models.errors import UnsupportedModelError
from specgrove.models.formats.gguf_blocks import BITS, BLOCK_LEN
from specgrove.models.formats.gguf_checkpoint import value_of
from specgrove.models.rotary import Llama3Scaling, RotarySpec, frequencies_of

# What llama.cpp's converter turns into a tensor of divisors; all of Meta's models have these values.
_LLAMA3_ORIGINAL_POSITIONS, _LLAMA3_LOW, _LLAMA3_HIGH = 8192, 1.0, 4.0


def config_of_gguf(reader: Any, path: Path) -> dict[str, Any]:
    """``config.json``. Raises ``UnsupportedModelError`` that names what is missing or not supported."""

    def value(key: str, default: Any = None) -> Any:
        found = value_of(reader, f"llama.{key}", default)
        if found is None:
            raise UnsupportedModelError(f"{path} lacks llama.{key} in its metadata")
        return found

    if value("expert_count", 0):
        raise UnsupportedModelError(f"{path}: mixtures of experts are not supported")
    shapes = {tensor.name: [int(size) for size in reversed(tensor.shape)] for tensor in reader.tensors}
    if "token_embd.weight" not in shapes:
        raise UnsupportedModelError(f"{path} has no token_embd.weight: is it a whole model?")
    hidden_size, num_heads = int(value("embedding_length")), int(value("attention.head_count"))
    head_dim = int(value("attention.key_length", hidden_size // num_heads))
    if int(value("rope.dimension_count", head_dim)) != head_dim:
        raise UnsupportedModelError(f"{path}: rotary embeddings of a part of the head are not supported")
    eos = [
        value_of(reader, f"tokenizer.ggml.{name}_token_id", None) for name in ("eos", "eot", "eom")
    ]  # end of sequence, of turn, of message
    eos_ids = list(dict.fromkeys(int(token_id) for token_id in eos if token_id is not None))
    config: dict[str, Any] = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": shapes["token_embd.weight"][0],
        "hidden_size": hidden_size,
        "intermediate_size": int(value("feed_forward_length")),
        "num_hidden_layers": int(value("block_count")),
        "num_attention_heads": num_heads,
        "num_key_value_heads": int(value("attention.head_count_kv", num_heads)),
        "head_dim": head_dim,
        "max_position_embeddings": int(value("context_length")),
        # GGUF holds the float32 neighbour of what the model's makers wrote.
        "rms_norm_eps": float(str(np.float32(value("attention.layer_norm_rms_epsilon")))),
        "rope_parameters": _rope(reader, path, head_dim, value),
        "hidden_act": "silu",
        "attention_bias": "blk.0.attn_q.bias" in shapes,
        "mlp_bias": "blk.0.ffn_up.bias" in shapes,
        "tie_word_embeddings": "output.weight" not in shapes,
        "bos_token_id": value_of(reader, "tokenizer.ggml.bos_token_id", None),
        "eos_token_id": eos_ids[0] if len(eos_ids) == 1 else eos_ids or None,
        "pad_token_id": value_of(reader, "tokenizer.ggml.padding_token_id", None),
    }
    kind = main_type(reader)
    if kind in BITS:
        config["quantization_config"] = {
            "quant_method": "gguf", "type": kind, "bits": BITS[kind], "group_size": BLOCK_LEN,
        }  # fmt: skip
    return config


def main_type(reader: Any) -> str:
    """The type of most of the layers' bytes."""
    num_bytes: Counter[str] = Counter()
    for tensor in reader.tensors:
        if tensor.name.startswith("blk."):
            num_bytes[tensor.tensor_type.name] += int(tensor.n_bytes)
    return num_bytes.most_common(1)[0][0] if num_bytes else "F32"


def _rope(reader: Any, path: Path, head_dim: int, value: Any) -> dict[str, Any]:
    theta = float(str(np.float32(value("rope.freq_base", 10000.0))))
    divisors = next((tensor.data for tensor in reader.tensors if tensor.name == "rope_freqs.weight"), None)
    if divisors is not None:
        return _llama3(np.asarray(divisors, np.float32), theta, head_dim, path)
    kind = value("rope.scaling.type", "none")
    if kind == "none":
        return {"rope_type": "default", "rope_theta": theta}
    if kind not in ("linear", "yarn"):
        raise UnsupportedModelError(f"{path}: rope scaling {kind!r} is not supported, only linear and yarn")
    rope = {"rope_type": kind, "rope_theta": theta, "factor": float(value("rope.scaling.factor"))}
    if kind == "yarn":
        rope["original_max_position_embeddings"] = int(value("rope.scaling.original_context_length"))
    return rope


def _llama3(divisors: np.ndarray[Any, Any], theta: float, head_dim: int, path: Path) -> dict[str, Any]:
    """The scaling whose divisors these are."""
    factor = float(divisors.max())
    scaling = Llama3Scaling(factor, _LLAMA3_LOW, _LLAMA3_HIGH, _LLAMA3_ORIGINAL_POSITIONS)
    expected = frequencies_of(RotarySpec(theta), head_dim) / frequencies_of(RotarySpec(theta, scaling), head_dim)
    if divisors.shape != expected.shape or not np.allclose(divisors, expected.numpy(), rtol=1e-3):
        raise UnsupportedModelError(
            f"{path}: rope_freqs.weight is not Llama 3's scaling, which is the only one supported"
        )
    return {
        "rope_type": "llama3",
        "rope_theta": theta,
        "factor": factor,
        "low_freq_factor": _LLAMA3_LOW,
        "high_freq_factor": _LLAMA3_HIGH,
        "original_max_position_embeddings": _LLAMA3_ORIGINAL_POSITIONS,
    }

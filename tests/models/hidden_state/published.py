"""Tiny EAGLE-3 checkpoints as others publish them, and the published architecture in a few lines of torch, written from its paper.

``reference_logits`` shares nothing with the product: it reads a checkpoint's own names and flags.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch.nn import functional

HIDDEN, INNER, HEADS, KV_HEADS, DIM, VOCAB, DRAFT_VOCAB, LLM_LAYERS = 48, 64, 4, 2, 12, 97, 40, 8
FLAVOURS = (
    "EAGLE",
    "SpecForge",
    "SpecForge, fc_norm and the LLM's head",
    "speculators",
    "speculators, 3.1",
    "speculators, qwen3",
    "NeMo",
)
_LAYER = {
    "hidden_size": HIDDEN, "intermediate_size": INNER, "num_attention_heads": HEADS, "num_key_value_heads": KV_HEADS, "head_dim": DIM,
    "rms_norm_eps": 1e-5, "hidden_act": "silu", "rope_theta": 5000.0, "max_position_embeddings": 128, "num_hidden_layers": 1,
    "vocab_size": VOCAB,
}  # fmt: skip


def config_of(flavour: str) -> dict[str, Any]:
    """What ``config.json`` says."""
    kind, _, rest = flavour.partition(", ")
    if kind == "EAGLE":
        extra = {
            "architectures": ["LlamaForCausalLM"],
            "draft_vocab_size": DRAFT_VOCAB,
            "torch_dtype": "float32",
            "bos_token_id": 1,
        }
        return {**_LAYER, **extra}
    if kind in ("SpecForge", "NeMo"):
        config = {
            **_LAYER,
            "architectures": ["LlamaForCausalLMEagle3"],
            "draft_vocab_size": DRAFT_VOCAB,
            "norm_output": True,
        }
        config["eagle_config"] = {"eagle_aux_hidden_state_layer_ids": [0, 2, 4], "use_aux_hidden_state": True}
        return config | ({"fc_norm": True, "draft_vocab_size": None} if rest else {})
    layer = {**_LAYER, "model_type": "qwen3" if rest == "qwen3" else "llama"}
    config = {
        "architectures": ["Eagle3DraftModel" if rest else "Eagle3Speculator"], "speculators_model_type": "eagle3",
        "draft_vocab_size": DRAFT_VOCAB, "transformer_layer_config": layer, "eagle_aux_hidden_state_layer_ids": [1, 3, 5],
        "speculators_config": {"verifier": {"name_or_path": "x"}}, "norm_before_residual": rest != "3.1", "speculators_version": "0.3",
    }  # fmt: skip
    return config | ({"norm_output": True, "fc_norm": True} if rest == "3.1" else {"norm_before_fc": rest == "qwen3"})


def tensors_of(flavour: str, seed: int = 0) -> dict[str, torch.Tensor]:
    """Random ones, by the names of the flavour."""
    config = config_of(flavour)
    prefix = {"EAGLE": "midlayer.", "SpecForge": "midlayer.", "speculators": "layers.0.", "NeMo": "model.layers.0."}
    kind = flavour.partition(",")[0]
    at, top = prefix[kind], "model." if kind == "NeMo" else ""
    generator = torch.Generator().manual_seed(seed)

    def random(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator) * shape[-1] ** -0.5

    def norm(size: int = HIDDEN) -> torch.Tensor:
        return 0.5 + torch.rand(size, generator=generator)

    tensors = {
        top + "fc.weight": random(HIDDEN, 3 * HIDDEN), top + "norm.weight": norm(),
        **{f"{at}{name}.weight": norm() for name in ("input_layernorm", "hidden_norm", "post_attention_layernorm")},
        at + "self_attn.q_proj.weight": random(HEADS * DIM, 2 * HIDDEN),
        **{f"{at}self_attn.{name}_proj.weight": random(KV_HEADS * DIM, 2 * HIDDEN) for name in "kv"},
        at + "self_attn.o_proj.weight": random(HIDDEN, HEADS * DIM), at + "mlp.down_proj.weight": random(HIDDEN, INNER),
        **{f"{at}mlp.{name}_proj.weight": random(INNER, HIDDEN) for name in ("gate", "up")},
    }  # fmt: skip
    if config.get("fc_norm"):
        tensors |= {f"fc_norm.{i}.weight": norm() for i in range(3)}
    if config.get("norm_before_fc"):
        tensors["input_norm.weight"] = norm(3 * HIDDEN)
    if "qwen3" in flavour:
        tensors |= {f"{at}self_attn.{name}_norm.weight": norm(DIM) for name in "qk"}
    if config["draft_vocab_size"] is not None:
        ids = torch.randperm(VOCAB, generator=generator)[:DRAFT_VOCAB].sort().values
        tensors["lm_head.weight"] = random(DRAFT_VOCAB, HIDDEN) * 6
        tensors["d2t"] = ids - torch.arange(DRAFT_VOCAB)
        tensors["t2d"] = torch.zeros(VOCAB, dtype=torch.bool).index_fill_(0, ids, value=True)
    if kind == "speculators":
        tensors["embed_tokens.weight"] = torch.randn(VOCAB, HIDDEN, generator=generator)
    return tensors


def save(folder: Path, flavour: str, **changes: Any) -> Path:
    """As it is published; ``changes`` are to the configuration. NeMo's map is a file of its own, EAGLE's file is pickled."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config_of(flavour) | changes))
    tensors = tensors_of(flavour)
    if flavour == "NeMo":
        torch.save(tensors.pop("d2t") + torch.arange(DRAFT_VOCAB), folder / "speculative_token_map.pt")
        del tensors["t2d"]
    if flavour == "EAGLE":
        torch.save(tensors, folder / "pytorch_model.bin")
    else:
        save_file(tensors, folder / "model.safetensors")
    return folder


def reference_logits(
    flavour: str,
    taps: torch.Tensor,
    token_ids: list[int],
    drafted: list[int],
    embedding: torch.Tensor,
    head: torch.Tensor,
) -> list[torch.Tensor]:
    """Logits over the LLM's ids (minus infinity: never proposed) after the last pair, and after each of a chain of drafted tokens.

    ``taps`` are ``[num_pairs, 3 * HIDDEN]``; pair i goes with ``token_ids[i]``, the token after its own.
    """
    config, stored = config_of(flavour), tensors_of(flavour)
    bare = {name.removeprefix("model.").replace("layers.0.", "midlayer."): tensor for name, tensor in stored.items()}
    weights = {
        name.replace("midlayer.", "").replace("self_attn.", "").replace("mlp.", ""): tensor
        for name, tensor in bare.items()
    }
    embedding = bare.get("embed_tokens.weight", embedding)
    is_speculators = "transformer_layer_config" in config

    def rms(x: torch.Tensor, name: str) -> torch.Tensor:
        return x / (x.pow(2).mean(-1, keepdim=True) + 1e-5).sqrt() * weights[name + ".weight"]

    def rotate(x: torch.Tensor, position: int) -> torch.Tensor:
        angles = position / 5000.0 ** (torch.arange(0, DIM, 2) / DIM)
        a, b = x[..., : DIM // 2], x[..., DIM // 2 :]
        return torch.cat([a * angles.cos() - b * angles.sin(), b * angles.cos() + a * angles.sin()], -1)

    keys: list[torch.Tensor] = []
    values: list[torch.Tensor] = []

    def layer(g: torch.Tensor, token_id: int, position: int) -> torch.Tensor:
        u = torch.cat([rms(embedding[token_id], "input_layernorm"), rms(g, "hidden_norm")])
        q, k, v = ((weights[f"{name}_proj.weight"] @ u).view(-1, DIM) for name in "qkv")
        if "q_norm.weight" in weights:
            q, k = rms(q, "q_norm"), rms(k, "k_norm")
        keys.append(rotate(k, position))
        values.append(v)
        all_keys, all_values = (torch.stack(x, 1).repeat_interleave(HEADS // KV_HEADS, 0) for x in (keys, values))
        scores = (all_keys @ rotate(q, position)[:, :, None]).squeeze(-1) / DIM**0.5
        attended = (scores.softmax(-1)[:, None] @ all_values).flatten()
        y = (rms(g, "hidden_norm") if config.get("norm_before_residual") else g) + weights["o_proj.weight"] @ attended
        x = rms(y, "post_attention_layernorm")
        return y + weights["down_proj.weight"] @ (
            functional.silu(weights["gate_proj.weight"] @ x) * (weights["up_proj.weight"] @ x)
        )

    def logits(y: torch.Tensor) -> torch.Tensor:
        z = rms(y, "norm")
        if "lm_head.weight" not in weights:
            return head @ z
        ids = torch.arange(DRAFT_VOCAB) + weights["d2t"]
        return torch.full((VOCAB,), -torch.inf).index_put_((ids,), weights["lm_head.weight"] @ z)

    y = torch.empty(0)
    for i, token_id in enumerate(token_ids):
        x = taps[i]
        if config.get("fc_norm"):
            x = torch.cat([rms(part, f"fc_norm.{j}") for j, part in enumerate(x.split(HIDDEN))])
        if config.get("norm_before_fc"):
            x = rms(x, "input_norm")
        y = layer(weights["fc.weight"] @ x, token_id, i)
    found = [logits(y)]
    for step, token_id in enumerate(drafted):
        fed = rms(y, "norm") if is_speculators and config.get("norm_output") else y
        y = layer(fed, token_id, len(token_ids) + step)
        found.append(logits(y))
    return found

"""The drafter that is trained: a plain small Llama over its own vocabulary, and how it is laid out on disk.

Draft id 0 is "unknown": every LLM token outside the draft vocabulary is embedded as it, and it is never proposed. It does get
probability in training (the teacher's mass outside the vocabulary), so that the other tokens' probabilities are honest.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from safetensors.torch import load_file, save_file

from specgrove.models.decoder.spec import DecoderSpec
from specgrove.training.options import DecoderShape
from specgrove.training.shards import Dialogues

UNKNOWN_ID = 0  # a draft id
UNKNOWN_TOKEN_ID = -1  # what it stands for
IDS_NAME = "draft_token_ids"
_DEFAULT_THETA = 10000.0


def choose_draft_vocab(
    dialogues: Dialogues, target_vocab_size: int, size: int, always_ids: tuple[int, ...]
) -> npt.NDArray[np.int32]:
    """``draft_token_ids`` ``[size]``: -1, then ``always_ids`` and the tokens to which the teacher gave most probability."""
    weights = np.exp(dialogues.top_log_probs.astype(np.float32)) * dialogues.is_made[:, None]
    mass = np.bincount(dialogues.top_ids.ravel(), weights.ravel(), minlength=target_vocab_size)
    mass = mass + 0.1 * np.bincount(dialogues.token_ids, minlength=target_vocab_size)  # prompts are read, too
    mass[list(always_ids)] = np.inf
    chosen = np.sort(np.argsort(-mass, kind="stable")[: size - 1])
    return np.concatenate([[UNKNOWN_TOKEN_ID], chosen]).astype(np.int32)


def draft_id_of_token(draft_token_ids: npt.NDArray[np.int32], target_vocab_size: int) -> npt.NDArray[np.int64]:
    """The inverse map ``[target_vocab_size]``; ``UNKNOWN_ID`` for tokens outside the draft vocabulary."""
    inverse = np.full(target_vocab_size, UNKNOWN_ID, np.int64)
    inverse[draft_token_ids[1:]] = np.arange(1, len(draft_token_ids))
    return inverse


def new_student(shape: DecoderShape, target: DecoderSpec, embedding: torch.Tensor) -> Any:
    """A ``LlamaForCausalLM`` whose embedding (and tied head) are ``embedding`` ``[draft_vocab_size, hidden_size]``.

    It reaches as far as its LLM. The base of its rotation is the LLM's where that rotates; a scaling is left to large models.
    """
    import transformers

    rotaries = [layer.rotary for layer in target.layers if layer.rotary is not None]
    theta = max((rotary.theta for rotary in rotaries), default=_DEFAULT_THETA)
    config = transformers.LlamaConfig(
        vocab_size=shape.draft_vocab_size,
        hidden_size=shape.hidden_size,
        intermediate_size=shape.intermediate_size,
        num_hidden_layers=shape.num_layers,
        num_attention_heads=shape.num_heads,
        num_key_value_heads=shape.num_kv_heads,
        head_dim=shape.head_dim,
        max_position_embeddings=target.max_position_embeddings,
        rms_norm_eps=target.norm_eps,
        rope_parameters={"rope_type": "default", "rope_theta": theta},
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=None,
    )
    model = transformers.LlamaForCausalLM(config)
    model.model.embed_tokens.weight.data.copy_(embedding)
    return model


def principal_embedding(
    target_head: torch.Tensor, draft_token_ids: npt.NDArray[np.int32], hidden_size: int
) -> torch.Tensor:
    """Rows of the LLM's head for the draft vocabulary in their ``hidden_size`` strongest directions; the unknown's is 0.

    A head of these rows starts out ranking tokens as the LLM's own head does, for the same hidden state in that basis; what all
    rows share is left out, since it changes no softmax. Scaled to a mean square of 1 / hidden_size, so that first logits are ~1.
    """
    rows = target_head[torch.from_numpy(draft_token_ids[1:]).long()].float()
    rows = rows - rows.mean(0)
    _, vectors = torch.linalg.eigh(rows.T @ rows)  # ascending
    projected = rows @ vectors[:, -hidden_size:]
    projected = projected / projected.norm(dim=1).mean()
    return torch.cat([torch.zeros(1, projected.shape[1]), projected])


def save_student(
    model: Any,
    draft_token_ids: npt.NDArray[np.int32],
    folder: Path,
    target: str,
    vocab_sha256: str,
    training: dict[str, Any],
) -> None:
    """Writes config.json and model.safetensors (bfloat16, standard Llama names, and ``draft_token_ids``).

    ``target`` is the LLM's name, ``vocab_sha256`` that of its tokenizer: the drafter serves no other.
    """
    folder.mkdir(parents=True, exist_ok=True)
    config = model.config.to_diff_dict()
    config |= {
        "architectures": ["LlamaForCausalLM"],
        "dtype": "bfloat16",
        "specgrove": {"draft_vocab": True, "target": target, "vocab_sha256": vocab_sha256, "training": training},
    }
    (folder / "config.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    tensors = {
        name: value.detach().to(torch.bfloat16).contiguous()
        for name, value in model.state_dict().items()
        if name != "lm_head.weight"
    }
    tensors[IDS_NAME] = torch.from_numpy(draft_token_ids)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "model.safetensors").chmod(0o644)


def load_student(folder: Path) -> tuple[Any, npt.NDArray[np.int32]]:
    """The model (float32) and its ``draft_token_ids``."""
    import transformers

    config = transformers.LlamaConfig.from_pretrained(folder)
    model = transformers.LlamaForCausalLM(config)
    tensors = load_file(folder / "model.safetensors")
    draft_token_ids = tensors.pop(IDS_NAME).numpy()
    tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"]
    model.load_state_dict({name: value.float() for name, value in tensors.items()})
    return model.eval(), draft_token_ids

"""The LLM as a teacher: a plain Llama forward for many rows at a time, one token each, over preallocated key/value caches.

Used by ``sampler`` and ``evaluate``. It is made for throughput only (bfloat16, no row invariance), so its choices may differ
from the served LLM's in near ties; as training targets they are as good. Invariant: row r of the cache belongs to one sequence.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file

CHUNK_SIZE = 64  # of the vocabulary, for the two-step top-k


@dataclass(frozen=True, slots=True)
class _Layer:
    attention_norm: torch.Tensor
    qkv: torch.Tensor  # [(num_heads + 2 * num_kv_heads) * head_dim, hidden_size]
    attention_out: torch.Tensor
    mlp_norm: torch.Tensor
    gate_up: torch.Tensor
    down: torch.Tensor


class Teacher:
    """A Llama with tied embeddings and ``num_rows`` sequences of at most ``max_len`` tokens."""

    def __init__(self, folder: Path, num_rows: int, max_len: int) -> None:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        tensors = {name: value.to(torch.bfloat16) for name, value in load_file(folder / "model.safetensors").items()}
        self.vocab_size: int = config["vocab_size"]
        self.num_heads: int = config["num_attention_heads"]
        self.num_kv_heads: int = config["num_key_value_heads"]
        self.head_dim: int = config.get("head_dim") or config["hidden_size"] // self.num_heads
        self.max_len = max_len
        self._eps: float = config["rms_norm_eps"]
        self._layers = [_layer(tensors, index) for index in range(config["num_hidden_layers"])]
        self._final_norm = tensors["model.norm.weight"]
        self.embedding = tensors["model.embed_tokens.weight"]  # [vocab_size, hidden_size]
        theta = (config.get("rope_parameters") or config)["rope_theta"]
        frequencies = theta ** (-torch.arange(0, self.head_dim, 2).float() / self.head_dim)
        angles = torch.arange(max_len)[:, None] * frequencies  # [max_len, head_dim / 2]
        self._cos, self._sin = angles.cos().repeat(1, 2).bfloat16(), angles.sin().repeat(1, 2).bfloat16()
        shape = (len(self._layers), num_rows, self.num_kv_heads, max_len, self.head_dim)
        self._keys = torch.zeros(shape, dtype=torch.bfloat16)
        self._values = torch.zeros(shape, dtype=torch.bfloat16)
        self._row_ids = torch.arange(num_rows)
        self._positions = torch.arange(max_len)

    @torch.inference_mode()
    def step(self, token_ids: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        """Feeds every row its token at its position (both ``[num_rows]``). Returns logits ``[num_rows, vocab_size]``."""
        num_rows = token_ids.shape[0]
        hidden_positions = (self._positions > positions[:, None])[:, None, None]  # [num_rows, 1, 1, max_len]
        mask = torch.zeros(num_rows, 1, 1, self.max_len).masked_fill_(hidden_positions, float("-inf"))
        mask = mask.expand(-1, self.num_kv_heads, -1, -1).reshape(-1, 1, self.max_len)
        cos, sin = self._cos[positions][:, None], self._sin[positions][:, None]  # [num_rows, 1, head_dim]
        group = self.num_heads // self.num_kv_heads
        hidden = F.embedding(token_ids, self.embedding)
        for index, layer in enumerate(self._layers):
            qkv = F.linear(self._norm(hidden, layer.attention_norm), layer.qkv)
            heads = qkv.view(num_rows, -1, self.head_dim)
            rotated = heads[:, : self.num_heads + self.num_kv_heads]
            first, second = rotated.chunk(2, dim=-1)
            rotated = rotated * cos + torch.cat((-second, first), dim=-1) * sin
            keys, values = self._keys[index], self._values[index]
            keys[self._row_ids, :, positions] = rotated[:, self.num_heads :]
            values[self._row_ids, :, positions] = heads[:, self.num_heads + self.num_kv_heads :]
            # The query heads of a group stand as queries of one head, so keys are read once; and always over the whole
            # cache, which is contiguous: three times faster here than scaled_dot_product_attention over a part of it.
            queries = rotated[:, : self.num_heads].reshape(num_rows * self.num_kv_heads, group, self.head_dim)
            scores = torch.bmm(queries, keys.flatten(0, 1).transpose(1, 2)).float() * self.head_dim**-0.5 + mask
            mixed = torch.bmm(scores.softmax(-1).bfloat16(), values.flatten(0, 1))
            hidden = hidden + F.linear(mixed.reshape(num_rows, -1), layer.attention_out)
            gate, up = F.linear(self._norm(hidden, layer.mlp_norm), layer.gate_up).chunk(2, dim=-1)
            hidden = hidden + F.linear(F.silu(gate) * up, layer.down)
        return F.linear(self._norm(hidden, self._final_norm), self.embedding)

    def _norm(self, hidden: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        return F.rms_norm(hidden, (hidden.shape[-1],), weight, self._eps)


def top_log_probs(logits: torch.Tensor, count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The ``count`` highest log-probabilities of each row of ``logits`` ``[num_rows, vocab_size]``, descending, and their ids.

    Exact: the best ``count`` tokens stand in the ``count`` chunks with the highest maxima. Several times faster than ``topk``.
    """
    num_rows, vocab_size = logits.shape
    log_sum = torch.logsumexp(logits.float(), dim=-1, keepdim=True)
    if vocab_size % CHUNK_SIZE or vocab_size // CHUNK_SIZE < count:
        values, ids = logits.float().topk(count)
        return values - log_sum, ids
    chunks = logits.view(num_rows, -1, CHUNK_SIZE)
    chunk_ids = chunks.amax(dim=-1).topk(count).indices  # [num_rows, count]
    candidates = chunks.gather(1, chunk_ids[..., None].expand(-1, -1, CHUNK_SIZE)).flatten(1).float()
    values, places = candidates.topk(count)
    ids = chunk_ids.gather(1, places // CHUNK_SIZE) * CHUNK_SIZE + places % CHUNK_SIZE
    return values - log_sum, ids


def _layer(tensors: dict[str, torch.Tensor], index: int) -> _Layer:
    prefix = f"model.layers.{index}."
    attention, mlp = prefix + "self_attn.", prefix + "mlp."
    return _Layer(
        attention_norm=tensors[prefix + "input_layernorm.weight"],
        qkv=torch.cat([tensors[f"{attention}{name}_proj.weight"] for name in "qkv"]),
        attention_out=tensors[attention + "o_proj.weight"],
        mlp_norm=tensors[prefix + "post_attention_layernorm.weight"],
        gate_up=torch.cat([tensors[mlp + "gate_proj.weight"], tensors[mlp + "up_proj.weight"]]),
        down=tensors[mlp + "down_proj.weight"],
    )

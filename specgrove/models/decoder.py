"""The one decoder definition: a forward pass over rows of any mix of sequences, configured by ``DecoderSpec``.

Called by ``specgrove.runtime.ModelRunner``, which owns the KV cache. Activations are float32 between kernels, weights and
caches have the model's dtype. Every kernel is row-invariant, so a row's logits don't depend on what else is in the batch.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from specgrove.kernels.attention import rotate_and_store, tree_attention
from specgrove.kernels.elementwise import add_rms_norm, embed, gated, rms_norm
from specgrove.kernels.linear import PackedLinear
from specgrove.models.families import llama
from specgrove.models.forward_batch import ForwardBatch
from specgrove.models.spec import DecoderSpec, UnsupportedModelError
from specgrove.models.weights import Checkpoint, LayerWeights, LinearWeights, ModelWeights

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


class _Layer:
    """Packed weights of one layer."""

    def __init__(self, weights: LayerWeights, dtype: torch.dtype) -> None:
        self.attention_norm = weights.attention_norm.float()
        self.qkv = _packed(weights.qkv, dtype)
        self.attention_out = _packed(weights.attention_out, dtype)
        self.mlp_norm = weights.mlp_norm.float()
        self.gate_up = _packed(weights.gate_up, dtype)
        self.down = _packed(weights.down, dtype)


def _packed(linear: LinearWeights, dtype: torch.dtype) -> PackedLinear:
    bias = None if linear.bias is None else linear.bias.float()
    return PackedLinear(linear.weight.to(dtype), bias)


class Decoder:
    """A loaded model."""

    def __init__(
        self, spec: DecoderSpec, weights: ModelWeights, dtype: torch.dtype, progress: Callable[[int, int], None]
    ) -> None:
        self.spec = spec
        self.dtype = dtype
        self._embedding = weights.embedding.to(dtype).contiguous()
        self._layers = []
        for index in range(spec.num_layers):
            self._layers.append(_Layer(weights.layer(index), dtype))
            progress(index + 1, spec.num_layers)
        self._final_norm = weights.final_norm.float()
        self._head = PackedLinear(weights.head.to(dtype))
        self._cos_sin = _rotary_table(spec)
        self._scale = spec.head_dim**-0.5

    @property
    def num_parameters(self) -> int:
        """Elements of all weights; a tied head counts once."""
        linears = [
            linear for layer in self._layers for linear in (layer.qkv, layer.attention_out, layer.gate_up, layer.down)
        ]
        count = sum(linear.in_features * linear.out_features for linear in linears)
        count += self._embedding.numel() * (1 if self.spec.has_tied_head else 2)
        return count + (2 * self.spec.num_layers + 1) * self.spec.hidden_size

    def forward(
        self, batch: ForwardBatch, k_caches: Sequence[torch.Tensor], v_caches: Sequence[torch.Tensor]
    ) -> torch.Tensor:
        """Logits float32 ``[num_logit_rows, vocab_size]``.

        Caches are one tensor per layer, ``[num_slots, num_kv_heads, head_dim]``; the rows' slots are written.
        """
        eps = self.spec.rms_norm_eps
        residual = embed(self._embedding, batch.token_ids)
        normed = rms_norm(residual, self._layers[0].attention_norm, eps)
        for index, layer in enumerate(self._layers):
            k_cache, v_cache = k_caches[index], v_caches[index]
            queries = rotate_and_store(layer.qkv(normed), batch.positions, self._cos_sin, batch.slots, k_cache, v_cache)
            attended = tree_attention(queries, k_cache, v_cache, batch.attention, self._scale)
            normed = add_rms_norm(residual, layer.attention_out(attended), layer.mlp_norm, eps)
            inner = gated(layer.gate_up(normed), "silu")
            is_last = index + 1 == len(self._layers)
            next_norm = self._final_norm if is_last else self._layers[index + 1].attention_norm
            normed = add_rms_norm(residual, layer.down(inner), next_norm, eps)
        return self._head(normed.index_select(0, batch.logit_rows))


def _rotary_table(spec: DecoderSpec) -> torch.Tensor:
    """Cosines, then sines, of every position's angles: float32 ``[max_position_embeddings, head_dim]``.

    The angles are computed in float32 as transformers does, so that long positions agree with it.
    """
    exponents = torch.arange(0, spec.head_dim, 2, dtype=torch.int64).float() / spec.head_dim
    inverse_frequencies = 1.0 / spec.rope_theta**exponents
    angles = torch.arange(spec.max_position_embeddings).float()[:, None] * inverse_frequencies
    return torch.cat([angles.cos(), angles.sin()], dim=1).contiguous()


def read_spec(folder: Path) -> DecoderSpec:
    """The spec of a model folder's ``config.json``. Raises ``UnsupportedModelError``."""
    config = json.loads((folder / "config.json").read_text())
    architectures = config.get("architectures") or []
    if not set(architectures) & set(llama.ARCHITECTURES):
        raise UnsupportedModelError(
            f"{folder}: architecture {architectures} is not supported, only {list(llama.ARCHITECTURES)}"
        )
    return llama.spec_of(config)


def load_decoder(
    folder: Path, dtype: torch.dtype, progress: Callable[[int, int], None] = lambda done, total: None
) -> Decoder:
    """Reads a checked model folder layer by layer; ``progress`` is told layers done and in all."""
    spec = read_spec(folder)
    with Checkpoint(folder) as checkpoint:
        return Decoder(spec, llama.weights_of(checkpoint, spec), dtype, progress)

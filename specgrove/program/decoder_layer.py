"""One decoder layer with its weights packed for the kernels: norms, attention and MLP of every family.

Owned by the decoder. Hidden states are float32 ``[num_rows, size]``; what runs is the ``DecoderOps`` of the store's device. Every
operation works row by row, so that a row's result doesn't depend on what else is in the batch.
"""

from __future__ import annotations

import torch

from specgrove.kernels.decoder_step import StepLayer, StepNorm
from specgrove.kernels.linear import NativeLinear
from specgrove.models.decoder.parameters import AttentionWeights, LayerWeights, MlpWeights, NormWeights
from specgrove.models.decoder.sharding import HeadShard
from specgrove.models.decoder.spec import DecoderSpec, LayerSpec
from specgrove.program.decoder_ops import DecoderOps, NormParams, RowTensors
from specgrove.program.linears import Linear
from specgrove.program.stores import WeightStore
from specgrove.program.tensor_group import TensorGroup


class Norm:
    """An RMS or layer norm."""

    def __init__(
        self, weights: NormWeights, spec: DecoderSpec, store: WeightStore, ops: DecoderOps, *, is_input: bool = True
    ) -> None:
        """``is_input``: what it gives is only read by linears."""
        shift = None if weights.shift is None else store.vector(weights.shift)
        self._params = NormParams(spec.norm == "rms", spec.norm_eps, store.vector(weights.scale), shift)
        self._ops = ops
        self._is_input = is_input

    def __call__(self, hidden: torch.Tensor, rows: torch.Tensor | None = None) -> torch.Tensor:
        """The norm of every row, or of these."""
        return self._ops.norm(hidden, None, self._params, rows=rows, is_input=self._is_input)

    @property
    def step_norm(self) -> StepNorm:
        """Its weights for the native step."""
        return StepNorm(self._params.scale, self._params.shift)

    def of_sum(self, residual: torch.Tensor, delta: torch.Tensor) -> torch.Tensor:
        """Adds ``delta`` to ``residual`` in place; the norm of the sum."""
        return self._ops.norm(residual, delta, self._params, is_input=self._is_input)


class Attention:
    """From normed rows to what attention adds, before the ranks' sum."""

    def __init__(
        self,
        weights: AttentionWeights,
        spec: DecoderSpec,
        layer: LayerSpec,
        heads: HeadShard,
        dtype: torch.dtype,
        store: WeightStore,
        ops: DecoderOps,
    ) -> None:
        self.qkv = store.linear(weights.qkv.weight, weights.qkv.bias, dtype)
        self.out = store.linear(weights.out.weight, weights.out.bias, dtype)
        self._spec = spec
        self._ops = ops
        self._window = layer.window
        self._heads = heads
        self.q_norm = None if weights.q_norm is None else store.vector(weights.q_norm)
        self.k_norm = None if weights.k_norm is None else store.vector(weights.k_norm)
        slopes = spec.alibi_slopes
        own = None if slopes is None else slopes[heads.first_q : heads.first_q + heads.num_q]
        self.alibi_slopes = None if own is None else store.vector(torch.tensor(own))

    def __call__(
        self,
        normed: torch.Tensor,
        rows: RowTensors,
        cos_sin: torch.Tensor | None,
        k_cache: torch.Tensor,
        v_cache: torch.Tensor,
    ) -> torch.Tensor:
        """Writes the rows' keys and values into the caches."""
        spec, heads, ops = self._spec, self._heads, self._ops
        qkv = self.qkv(normed)
        if spec.qkv_clip is not None:
            qkv.clamp_(-spec.qkv_clip, spec.qkv_clip)
        if self.q_norm is not None:
            ops.head_rms_norm(qkv, self.q_norm, spec.norm_eps, 0, heads.num_q, spec.head_dim)
        if self.k_norm is not None:
            ops.head_rms_norm(qkv, self.k_norm, spec.norm_eps, heads.num_q, heads.num_kv, spec.head_dim)
        queries = ops.rotate_and_store(qkv, rows, cos_sin, k_cache, v_cache)
        attended = ops.tree_attention(
            queries, k_cache, v_cache, rows, spec.attention_scale, self.alibi_slopes, self._window
        )
        return self.out(attended)


class Mlp:
    """From normed rows to what the MLP adds, before the ranks' sum."""

    def __init__(
        self, weights: MlpWeights, spec: DecoderSpec, dtype: torch.dtype, store: WeightStore, ops: DecoderOps
    ) -> None:
        self.up = store.linear(weights.up.weight, weights.up.bias, dtype)
        self.down = store.linear(weights.down.weight, weights.down.bias, dtype)
        self._activation = spec.activation
        self._activate = ops.gated if spec.is_gated else ops.activate

    def __call__(self, normed: torch.Tensor) -> torch.Tensor:
        """``[num_rows, hidden_size]`` to the same shape."""
        return self.down(self._activate(self.up(normed), self._activation))


def _step_norm(norm: Norm | None) -> StepNorm | None:
    return None if norm is None else norm.step_norm


class DecoderLayer:
    """One layer of one rank."""

    def __init__(
        self,
        weights: LayerWeights,
        spec: DecoderSpec,
        layer: LayerSpec,
        heads: HeadShard,
        dtype: torch.dtype,
        store: WeightStore,
        ops: DecoderOps,
    ) -> None:
        self.spec = layer
        self.attention = Attention(weights.attention, spec, layer, heads, dtype, store, ops)
        self.mlp = Mlp(weights.mlp, spec, dtype, store, ops)
        self._residual = spec.residual
        self._ops = ops
        is_input = spec.residual != "post_norm"  # else the norms are the hidden states too
        self.attention_norm = Norm(weights.attention_norm, spec, store, ops, is_input=is_input)
        self._mlp_norm, self._attention_out_norm, self._mlp_out_norm = (
            None if norm is None else Norm(norm, spec, store, ops, is_input=gives_input)
            for norm, gives_input in (
                (weights.mlp_norm, is_input),
                (weights.attention_out_norm, False),
                (weights.mlp_out_norm, False),
            )
        )

    def step_layer(self, cos_sin: torch.Tensor | None) -> StepLayer | None:
        """For the native step, which does what ``__call__`` does; ``None`` where a linear isn't a native one."""
        linears = [linear for linear in self.linears if isinstance(linear, NativeLinear)]
        if len(linears) < len(self.linears):
            return None
        qkv, out, up, down = linears
        return StepLayer(
            qkv,
            out,
            up,
            down,
            attention_norm=self.attention_norm.step_norm,
            mlp_norm=_step_norm(self._mlp_norm),
            attention_out_norm=_step_norm(self._attention_out_norm),
            mlp_out_norm=_step_norm(self._mlp_out_norm),
            q_norm=self.attention.q_norm,
            k_norm=self.attention.k_norm,
            cos_sin=cos_sin,
            window=self.spec.window,
        )

    @property
    def linears(self) -> tuple[Linear, ...]:
        """In the order of their use."""
        return (self.attention.qkv, self.attention.out, self.mlp.up, self.mlp.down)

    def __call__(
        self,
        hidden: torch.Tensor,
        delta: torch.Tensor | None,
        rows: RowTensors,
        cos_sin: torch.Tensor | None,
        k_cache: torch.Tensor,
        v_cache: torch.Tensor,
        group: TensorGroup,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Takes and returns hidden states ``hidden + delta``, float32 ``[num_rows, hidden_size]``; both may be written to.

        The sum is left to the next norm, which does it in the same pass over memory.
        """
        attend = (rows, cos_sin, k_cache, v_cache)
        if self._residual == "post_norm":
            assert self._mlp_norm is not None
            hidden = self.attention_norm.of_sum(hidden, group.sum(self.attention(hidden, *attend)))
            return self._mlp_norm.of_sum(hidden, group.sum(self.mlp(hidden))), None
        normed = self.attention_norm(hidden) if delta is None else self.attention_norm.of_sum(hidden, delta)
        attended = self.attention(normed, *attend)
        if self._residual == "parallel":
            self._ops.add(attended, self.mlp(normed if self._mlp_norm is None else self._mlp_norm(hidden)))
            return hidden, group.sum(attended)
        assert self._mlp_norm is not None
        attended = group.sum(attended)
        if self._attention_out_norm is not None:
            attended = self._attention_out_norm(attended)
        delta = group.sum(self.mlp(self._mlp_norm.of_sum(hidden, attended)))
        return hidden, delta if self._mlp_out_norm is None else self._mlp_out_norm(delta)

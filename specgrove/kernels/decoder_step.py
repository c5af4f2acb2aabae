"""All layers of a decoder in one native call: no Python between kernels, so a step of few rows isn't held up by it.

The kernels are those of ``attention``, ``elementwise`` and the linears, in the order in which ``specgrove.program.decoder_layer``
calls them: the same bits. Called by the decoder where nothing has to happen between layers. A step keeps alive all that it reads.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

import torch

from specgrove.kernels import _native
from specgrove.kernels.activations import Activation
from specgrove.kernels.attention import MAX_HEAD_DIM, AttentionBatch
from specgrove.kernels.checks import check, native_dtype, optional_address
from specgrove.kernels.elementwise import native_activation
from specgrove.kernels.linear import NativeLinear

Residual: TypeAlias = Literal["pre_norm", "post_norm", "parallel"]

_RESIDUALS: dict[str, _native.Residual] = {
    "pre_norm": _native.Residual.pre_norm,
    "post_norm": _native.Residual.post_norm,
    "parallel": _native.Residual.parallel,
}


@dataclass(frozen=True, slots=True)
class StepShape:
    """What all layers share. Sizes are in elements."""

    hidden_size: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    norm: Literal["rms", "layer"]
    norm_eps: float
    activation: Activation
    is_gated: bool
    residual: Residual
    attention_scale: float
    qkv_clip: float | None
    alibi_slopes: torch.Tensor | None  # float32 [num_heads]


@dataclass(frozen=True, slots=True)
class StepNorm:
    """Weights of a norm, float32 ``[hidden_size]``; only layer norms may have a shift."""

    scale: torch.Tensor
    shift: torch.Tensor | None


@dataclass(frozen=True, slots=True)
class StepLayer:
    """One layer. ``up`` is gate and up, one after the other, where the MLP is gated."""

    qkv: NativeLinear
    out: NativeLinear
    up: NativeLinear
    down: NativeLinear
    attention_norm: StepNorm
    mlp_norm: StepNorm | None  # only parallel layers can do without
    attention_out_norm: StepNorm | None  # of pre_norm layers only, as mlp_out_norm
    mlp_out_norm: StepNorm | None
    q_norm: torch.Tensor | None  # float32 [head_dim], as k_norm
    k_norm: torch.Tensor | None
    cos_sin: torch.Tensor | None  # float32 [max_positions, head_dim]; without it nothing is rotated
    window: int | None


@dataclass(frozen=True, slots=True)
class _CheckedCaches:
    keys: tuple[torch.Tensor, ...]
    values: tuple[torch.Tensor, ...]
    native: _native.StepCaches


class DecoderStep:
    """The layers of one decoder. One call at a time runs; others wait."""

    def __init__(self, shape: StepShape, layers: Sequence[StepLayer]) -> None:
        heads_fit = shape.num_heads > 0 and shape.num_kv_heads > 0 and shape.num_heads % shape.num_kv_heads == 0
        if not heads_fit or shape.head_dim > MAX_HEAD_DIM:
            raise ValueError(
                f"{shape.num_heads} heads over {shape.num_kv_heads} KV heads of size {shape.head_dim} are not supported"
            )
        if not layers:
            raise ValueError("there must be at least one layer")
        self._shape, self._layers = shape, tuple(layers)  # kept: the native step holds addresses in them
        self._inner_size = layers[0].down.in_features
        self._native = _native.DecoderStep(self._native_shape(), [self._native_layer(layer) for layer in layers])
        self._caches: _CheckedCaches | None = None

    @property
    def native(self) -> _native.DecoderStep:
        """For native code that calls it; what it reads is valid for as long as this object lives."""
        return self._native

    @property
    def hidden_size(self) -> int:
        """Elements of a hidden state."""
        return self._shape.hidden_size

    def __call__(
        self,
        hidden: torch.Tensor,
        positions: torch.Tensor,
        slots: torch.Tensor,
        batch: AttentionBatch,
        k_caches: Sequence[torch.Tensor],
        v_caches: Sequence[torch.Tensor],
    ) -> None:
        """Runs all layers on ``hidden``, float32 ``[num_rows, hidden_size]``, in place; the rows' slots are written.

        ``positions`` and ``slots`` are int32 ``[num_rows]``; a cache, one of keys and one of values for each layer, is
        ``[num_slots, num_kv_heads, head_dim]``, all of one dtype; tuples of caches are checked once. Raises ``ValueError`` for a
        position or slot that is not there, before anything is written.
        """
        num_rows = hidden.shape[0]
        check(hidden, "hidden", torch.float32, num_rows, self._shape.hidden_size)
        check(positions, "positions", torch.int32, num_rows)
        check(slots, "slots", torch.int32, num_rows)
        check(batch.row_seq, "row_seq", torch.int32, num_rows)
        caches = self.native_caches(k_caches, v_caches)
        self._native.run(hidden.data_ptr(), num_rows, positions.data_ptr(), slots.data_ptr(), batch.plan, caches)

    def native_caches(self, k_caches: Sequence[torch.Tensor], v_caches: Sequence[torch.Tensor]) -> _native.StepCaches:
        """For native code that reads them. Raises ``ValueError`` for caches that don't fit."""
        known = self._caches
        if known is not None and known.keys is k_caches and known.values is v_caches:
            return known.native
        if not len(k_caches) == len(v_caches) == len(self._layers):
            raise ValueError(
                f"there must be a cache of keys and one of values for each of the {len(self._layers)} layers"
            )
        num_slots = k_caches[0].shape[0]
        cache_dtype, cache_shape = k_caches[0].dtype, (num_slots, self._shape.num_kv_heads, self._shape.head_dim)
        for caches in (k_caches, v_caches):
            for cache in caches:
                check(cache, "k_caches and v_caches", cache_dtype, *cache_shape)
        keys, values = ([cache.data_ptr() for cache in caches] for caches in (k_caches, v_caches))
        native = _native.StepCaches(keys, values, native_dtype(k_caches[0], "k_caches"), num_slots)
        if isinstance(k_caches, tuple) and isinstance(v_caches, tuple):
            self._caches = _CheckedCaches(k_caches, v_caches, native)
        return native

    def _native_shape(self) -> _native.StepShape:
        shape = self._shape
        return _native.StepShape(
            hidden_size=shape.hidden_size,
            inner_size=self._inner_size,
            num_heads=shape.num_heads,
            num_kv_heads=shape.num_kv_heads,
            head_dim=shape.head_dim,
            is_rms=shape.norm == "rms",
            norm_eps=shape.norm_eps,
            activation=native_activation(shape.activation),
            is_gated=shape.is_gated,
            residual=_RESIDUALS[shape.residual],
            attention_scale=shape.attention_scale,
            qkv_clip=shape.qkv_clip,
            alibi_slopes=optional_address(shape.alibi_slopes, "alibi_slopes", shape.num_heads),
        )

    def _native_layer(self, layer: StepLayer) -> _native.StepLayer:
        shape, inner = self._shape, self._inner_size
        attended = shape.num_heads * shape.head_dim
        _check_sizes(layer.qkv, "qkv", shape.hidden_size, attended + 2 * shape.num_kv_heads * shape.head_dim)
        _check_sizes(layer.out, "out", attended, shape.hidden_size)
        _check_sizes(layer.up, "up", shape.hidden_size, 2 * inner if shape.is_gated else inner)
        _check_sizes(layer.down, "down", inner, shape.hidden_size)
        if layer.mlp_norm is None and shape.residual != "parallel":
            raise ValueError(f"a layer of the form {shape.residual} needs an mlp_norm")
        if shape.residual != "pre_norm" and (layer.attention_out_norm, layer.mlp_out_norm) != (None, None):
            raise ValueError(f"a layer of the form {shape.residual} has no norms of what is added")
        if layer.cos_sin is not None and shape.head_dim % 2:
            raise ValueError(f"heads of size {shape.head_dim} can't be rotated: the size must be even")
        if layer.window is not None and layer.window < 1:
            raise ValueError(f"window must be at least 1, got {layer.window}")
        max_positions = 0 if layer.cos_sin is None else layer.cos_sin.shape[0]
        return _native.StepLayer(
            qkv=layer.qkv.native,
            out=layer.out.native,
            up=layer.up.native,
            down=layer.down.native,
            attention_norm=self.native_norm(layer.attention_norm),
            mlp_norm=self.native_norm(layer.mlp_norm),
            attention_out_norm=self.native_norm(layer.attention_out_norm),
            mlp_out_norm=self.native_norm(layer.mlp_out_norm),
            q_norm=optional_address(layer.q_norm, "q_norm", shape.head_dim),
            k_norm=optional_address(layer.k_norm, "k_norm", shape.head_dim),
            cos_sin=optional_address(layer.cos_sin, "cos_sin", max_positions, shape.head_dim),
            max_positions=max_positions,
            window=layer.window,
        )

    def native_norm(self, norm: StepNorm | None) -> _native.StepNorm:
        """For native code that reads it; the caller keeps the weights alive."""
        if norm is None:
            return _native.StepNorm(0, 0)
        if norm.shift is not None and self._shape.norm == "rms":
            raise ValueError("an RMS norm has no shift")
        size = self._shape.hidden_size
        return _native.StepNorm(
            optional_address(norm.scale, "scale", size), optional_address(norm.shift, "shift", size)
        )


def _check_sizes(linear: NativeLinear, name: str, in_features: int, out_features: int) -> None:
    if (linear.in_features, linear.out_features) != (in_features, out_features):
        raise ValueError(
            f"{name} must have {in_features} inputs and {out_features} outputs,"
            f" got {linear.in_features} and {linear.out_features}"
        )

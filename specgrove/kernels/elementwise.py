"""Norms, sums, activation functions and embedding. All activations are float32 ``[num_rows, size]``.

For the CPU. Other devices have the same ops in ``specgrove.kernels.torch_ops``, NVIDIA GPUs kernels in ``specgrove.kernels.cuda``.
"""

from __future__ import annotations

import torch

from specgrove.kernels import _native
from specgrove.kernels.activations import Activation
from specgrove.kernels.checks import check, native_dtype

_ACTIVATIONS: dict[str, _native.Activation] = {
    "silu": _native.Activation.silu,
    "gelu": _native.Activation.gelu,
    "gelu_tanh": _native.Activation.gelu_tanh,
    "relu": _native.Activation.relu,
}


def rms_norm(x: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
    """``x * rsqrt(mean(x ** 2) + eps) * weight`` by row (arXiv 1910.07467)."""
    num_rows, size = x.shape
    check(x, "x", torch.float32, num_rows, size)
    check(weight, "weight", torch.float32, size)
    out = torch.empty_like(x)
    _native.rms_norm(x.data_ptr(), weight.data_ptr(), eps, num_rows, size, out.data_ptr())
    return out


def add_rms_norm(residual: torch.Tensor, delta: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
    """Adds ``delta`` to ``residual`` in place, and returns the norm of the sum."""
    num_rows, size = residual.shape
    check(weight, "weight", torch.float32, size)
    check(residual, "residual", torch.float32, num_rows, size)
    check(delta, "delta", torch.float32, num_rows, size)
    out = torch.empty_like(residual)
    _native.add_rms_norm(residual.data_ptr(), delta.data_ptr(), weight.data_ptr(), eps, num_rows, size, out.data_ptr())
    return out


def layer_norm(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, eps: float) -> torch.Tensor:
    """``(x - mean) * rsqrt(var + eps) * weight + bias`` by row (arXiv 1607.06450)."""
    num_rows, size = x.shape
    check(x, "x", torch.float32, num_rows, size)
    out = torch.empty_like(x)
    _native.layer_norm(x.data_ptr(), *_weight_and_bias(weight, bias, size), eps, num_rows, size, out.data_ptr())
    return out


def add_layer_norm(
    residual: torch.Tensor, delta: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, eps: float
) -> torch.Tensor:
    """Adds ``delta`` to ``residual`` in place, and returns the norm of the sum."""
    num_rows, size = residual.shape
    check(residual, "residual", torch.float32, num_rows, size)
    check(delta, "delta", torch.float32, num_rows, size)
    out = torch.empty_like(residual)
    addresses = _weight_and_bias(weight, bias, size)
    _native.add_layer_norm(residual.data_ptr(), delta.data_ptr(), *addresses, eps, num_rows, size, out.data_ptr())
    return out


def _weight_and_bias(weight: torch.Tensor, bias: torch.Tensor | None, size: int) -> tuple[int, int]:
    check(weight, "weight", torch.float32, size)
    if bias is None:
        return weight.data_ptr(), 0
    check(bias, "bias", torch.float32, size)
    return weight.data_ptr(), bias.data_ptr()


def add(residual: torch.Tensor, delta: torch.Tensor) -> None:
    """Adds ``delta`` to ``residual`` in place."""
    num_rows, size = residual.shape
    check(residual, "residual", torch.float32, num_rows, size)
    check(delta, "delta", torch.float32, num_rows, size)
    _native.add(residual.data_ptr(), delta.data_ptr(), num_rows, size)


def head_rms_norm(
    qkv: torch.Tensor, weight: torch.Tensor, eps: float, first_head: int, num_heads: int, head_dim: int
) -> None:
    """``rms_norm`` of each head alone, in place: the query-key norm of Qwen3 and Gemma 3.

    The heads are columns ``[first_head * head_dim, (first_head + num_heads) * head_dim)`` of ``qkv``, float32
    ``[num_rows, width]``; ``weight`` is float32 ``[head_dim]``.
    """
    num_rows, width = qkv.shape
    check(qkv, "qkv", torch.float32, num_rows, width)
    check(weight, "weight", torch.float32, head_dim)
    if min(first_head, num_heads) < 0 or (first_head + num_heads) * head_dim > width:
        raise ValueError(
            f"qkv of {width} columns has no {num_heads} heads of size {head_dim} from head {first_head} on"
        )
    _native.head_rms_norm(qkv.data_ptr(), weight.data_ptr(), eps, num_rows, width, first_head, num_heads, head_dim)


def activate(x: torch.Tensor, activation: Activation) -> torch.Tensor:
    """The activation function of every element, as a new tensor.

    ``gelu`` is ``x`` times the normal distribution function (arXiv 1606.08415), ``gelu_tanh`` the approximation to it by
    a hyperbolic tangent.
    """
    num_rows, size = x.shape
    check(x, "x", torch.float32, num_rows, size)
    out = torch.empty_like(x)
    _native.activate(x.data_ptr(), native_activation(activation), num_rows, size, out.data_ptr())
    return out


def gated(gate_up: torch.Tensor, activation: Activation) -> torch.Tensor:
    """``[num_rows, 2 * size]`` to ``[num_rows, size]``: ``activation(gate) * up``."""
    num_rows, width = gate_up.shape
    check(gate_up, "gate_up", torch.float32, num_rows, width)
    size = width // 2
    if width % 2:
        raise ValueError(f"gate_up must have an even number of columns, got {width}")
    out = torch.empty((num_rows, size))
    _native.gated(gate_up.data_ptr(), native_activation(activation), num_rows, size, out.data_ptr())
    return out


def native_activation(activation: str) -> _native.Activation:
    """Raises ``ValueError`` for a name that is none."""
    if activation not in _ACTIVATIONS:
        raise ValueError(f"activation must be one of {', '.join(_ACTIVATIONS)}, got {activation!r}")
    return _ACTIVATIONS[activation]


def embed(table: torch.Tensor, token_ids: torch.Tensor) -> torch.Tensor:
    """Rows of ``table`` ``[vocab_size, size]`` (float32, bfloat16, float16) for int64 ids, as float32 ``[num_rows, size]``.

    Raises ``ValueError`` for an id that the table doesn't have.
    """
    num_rows, (vocab_size, size) = token_ids.shape[0], table.shape
    check(token_ids, "token_ids", torch.int64, num_rows)
    out = torch.empty((num_rows, size))
    table_dtype = native_dtype(table, "table")
    _native.embed(table.data_ptr(), table_dtype, vocab_size, token_ids.data_ptr(), num_rows, size, out.data_ptr())
    return out

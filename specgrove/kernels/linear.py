"""Small-batch linears over weights packed once. A row's bits don't depend on how many rows there are."""

from __future__ import annotations

import torch

from specgrove.kernels import _native
from specgrove.kernels._native import AnyLinear
from specgrove.kernels.checks import NATIVE_DTYPES, check, check_packed, native_dtype, optional_address


class NativeLinear:
    """What linears of all kinds of weights have in common: ``_native`` computes, on bytes that it owns or that ``_viewed`` holds."""

    out_features: int
    in_features: int
    _native: _native.PackedLinear | _native.QuantizedLinear
    _viewed: torch.Tensor | None

    @property
    def native(self) -> AnyLinear:
        """For native code that calls it; valid for as long as this object lives."""
        return self._native

    @property
    def nbytes(self) -> int:
        """Bytes of the packed weights, with scales and mins where there are any; the bias is not among them."""
        return self._native.nbytes

    def packed(self) -> torch.Tensor:
        """A copy of the packed weights, uint8 ``[nbytes]``, the same on every processor; the bias is not among them."""
        packed = torch.empty(self.nbytes, dtype=torch.uint8)
        self._native.copy_packed(packed.data_ptr())
        return packed

    def __call__(self, x: torch.Tensor, out: torch.Tensor | None = None) -> torch.Tensor:
        """float32 ``[num_rows, in_features]`` to float32 ``[num_rows, out_features]``: into ``out`` if given, and returned."""
        num_rows = x.shape[0]
        check(x, "x", torch.float32, num_rows, self.in_features)
        if out is None:
            out = torch.empty((num_rows, self.out_features))
        else:
            check(out, "out", torch.float32, num_rows, self.out_features)
        self._native.forward(x.data_ptr(), num_rows, out.data_ptr())
        return out


class PackedLinear(NativeLinear):
    """``x @ weight.T + bias`` for float32 ``x``. bfloat16 weights multiply ``x`` rounded to bfloat16, sums are float32."""

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None = None) -> None:
        """``weight`` is ``[out_features, in_features]`` in float32, bfloat16 or float16; ``bias`` float32 ``[out_features]``."""
        weight = weight.contiguous()
        out_features, in_features = weight.shape
        dtype, bias_address = native_dtype(weight, "weight"), optional_address(bias, "bias", out_features)
        native = _native.PackedLinear(weight.data_ptr(), dtype, bias_address, out_features, in_features)
        self._set_up(out_features, in_features, weight.dtype, native, None)

    @classmethod
    def from_packed(
        cls,
        packed: torch.Tensor,
        dtype: torch.dtype,
        out_features: int,
        in_features: int,
        bias: torch.Tensor | None = None,
    ) -> PackedLinear:
        """Over the bytes that ``packed()`` of a linear of the same shape gave: a view of them, which must not change."""
        if dtype not in NATIVE_DTYPES:
            raise ValueError(f"dtype must be float32, bfloat16 or float16, got {dtype}")
        check_packed(packed, _native.PackedLinear.packed_nbytes(NATIVE_DTYPES[dtype], out_features, in_features))
        native = _native.PackedLinear.from_packed(
            packed.data_ptr(),
            NATIVE_DTYPES[dtype],
            optional_address(bias, "bias", out_features),
            out_features,
            in_features,
        )
        linear = cls.__new__(cls)
        linear._set_up(out_features, in_features, dtype, native, packed)
        return linear

    def _set_up(
        self,
        out_features: int,
        in_features: int,
        dtype: torch.dtype,
        native: _native.PackedLinear,
        viewed: torch.Tensor | None,
    ) -> None:
        self.out_features, self.in_features, self.dtype = out_features, in_features, dtype
        self._native, self._viewed = native, viewed  # viewed: kept alive for as long as the native object reads it

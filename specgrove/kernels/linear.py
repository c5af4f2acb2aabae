"""Small-batch linears over weights packed once. A row's bits don't depend on how many rows there are."""

from __future__ import annotations

import torch

from specgrove.kernels import _native
from specgrove.kernels.checks import check, native_dtype


class PackedLinear:
    """``x @ weight.T + bias`` for float32 ``x``. bfloat16 weights multiply ``x`` rounded to bfloat16, sums are float32."""

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None = None) -> None:
        """``weight`` is ``[out_features, in_features]`` in float32, bfloat16 or float16; ``bias`` float32 ``[out_features]``."""
        weight = weight.contiguous()
        self.out_features, self.in_features = weight.shape
        self.dtype = weight.dtype
        if bias is not None:
            check(bias, "bias", torch.float32, self.out_features)
        self._native = _native.PackedLinear(
            weight.data_ptr(),
            native_dtype(weight, "weight"),
            0 if bias is None else bias.data_ptr(),
            self.out_features,
            self.in_features,
        )

    @property
    def nbytes(self) -> int:
        """Bytes of the packed weights."""
        return self._native.nbytes

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

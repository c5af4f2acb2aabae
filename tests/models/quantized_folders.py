"""Folders in GPTQ's and AWQ's formats, packed in the tests' own way: word by word and bit by bit, from random values."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file

from specgrove.kernels.quantized_linear import QuantizedWeight
from specgrove.models.decoder.parameters import Weight
from specgrove.program.stores import Linear, MemoryWeights

AWQ_ORDER = [0, 2, 4, 6, 1, 3, 5, 7]


def values_of(weight: Weight) -> torch.Tensor:
    """In float32."""
    return weight.dequantized() if isinstance(weight, QuantizedWeight) else weight.float()


class DequantisingWeights(MemoryWeights):
    """Computes with the values in float32: the kernels of quantised weights would round activations to 8 bits."""

    def linear(self, weight: Weight, bias: torch.Tensor | None, dtype: torch.dtype) -> Linear:
        return super().linear(values_of(weight), bias, torch.float32)


def is_quantised(name: str) -> bool:
    return "proj" in name and name.endswith(".weight")


def pack_words(codes: np.ndarray, bits: int) -> torch.Tensor:
    """Codes ``[n, 32 / bits]`` to ``n`` words, the first in the lowest bits, by Python's integers."""
    words = [sum(int(code) << (bits * i) for i, code in enumerate(row)) for row in codes]
    return torch.from_numpy(np.array(words, dtype=np.uint32).view(np.int32))


def gptq_tensors(
    codes: torch.Tensor, zeros: torch.Tensor, scales: torch.Tensor, bits: int, offset: int
) -> dict[str, Any]:
    """``codes`` is ``[in, out]``, ``zeros`` and ``scales`` are ``[groups, out]``."""
    (num_in, num_out), n = codes.shape, 32 // bits
    columns = [pack_words(codes[:, o].view(-1, n).numpy(), bits) for o in range(num_out)]
    rows = [pack_words((zero - offset).view(-1, n).numpy(), bits) for zero in zeros]
    return {
        "qweight": torch.stack(columns, 1),
        "qzeros": torch.stack(rows),
        "scales": scales,
        "g_idx": torch.arange(num_in, dtype=torch.int32) // (num_in // len(zeros)),
    }


def awq_tensors(codes: torch.Tensor, zeros: torch.Tensor, scales: torch.Tensor) -> dict[str, Any]:
    def packed(values: torch.Tensor) -> torch.Tensor:
        return torch.stack([pack_words(row.view(-1, 8).numpy()[:, AWQ_ORDER], 4) for row in values])

    return {"qweight": packed(codes), "qzeros": packed(zeros), "scales": scales}


def quantise_folder(
    folder: Path, method: str, bits: int, group_size: int, offset: int = 1, low: int = 0, zero_spread: int = 256
) -> dict[str, torch.Tensor]:
    """Rewrites a saved Llama's linears as random codes in a format; returns the values they stand for, in float32."""
    tensors, stored, values = load_file(folder / "model.safetensors"), {}, {}
    generator = torch.Generator().manual_seed(bits)
    for name, tensor in tensors.items():
        if not is_quantised(name):
            stored[name] = values[name] = tensor.float()
            continue
        num_out, num_in = tensor.shape
        num_groups = 1 if group_size < 0 else num_in // group_size
        codes = torch.randint(low, 1 << bits, (num_in, num_out), generator=generator)
        middle = 1 << (bits - 1)
        least, most = max(offset, middle - zero_spread), min(1 << bits, middle + max(1, zero_spread))
        zeros = torch.randint(least, most, (num_groups, num_out), generator=generator)
        scales = (torch.rand(num_groups, num_out, generator=generator) * 2.0 / (1 << bits) + 0.01).half()
        grouped = codes.view(num_groups, -1, num_out) - zeros[:, None]
        values[name] = (grouped * scales.float()[:, None]).view(num_in, num_out).T.contiguous()
        parts = (
            gptq_tensors(codes, zeros, scales, bits, offset) if method == "gptq" else awq_tensors(codes, zeros, scales)
        )
        stored.update({name.removesuffix("weight") + part: tensor for part, tensor in parts.items()})
    save_file({name: tensor.contiguous() for name, tensor in stored.items()}, folder / "model.safetensors")
    quantization = {"quant_method": method, "bits": bits, "group_size": group_size}
    edit_config(folder, quantization_config=quantization)
    return values


def edit_config(folder: Path, **changes: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))

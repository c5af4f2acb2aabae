"""The values of GGUF's blocks, bit for bit against llama.cpp's own package, for any bytes: zero, tiny, huge and infinite scales too."""

from __future__ import annotations

import gguf
import numpy as np
import pytest
import torch

from specgrove.models.errors import UnsupportedModelError
from specgrove.models.weights.formats.gguf_blocks import BITS, SUPPORTED_TYPES, dequantized, quantized
from specgrove.models.weights.gguf_file import TYPES
from tests.models.quantized_folders import values_of

QUANTISED = [kind for kind in SUPPORTED_TYPES if kind not in ("F32", "F16", "BF16")]
EXTREME_HALVES = np.array(
    [0.0, -0.0, 6e-8, -6e-8, 65504.0, -65504.0, np.inf, -np.inf, np.nan, 1e-4, 1.0], dtype=np.float16
)
SCALE_PLACES = {
    "Q8_0": (0,), "Q4_0": (0,), "Q4_1": (0, 2), "Q5_0": (0,), "Q5_1": (0, 2), "Q2_K": (80, 82), "Q3_K": (108,),
    "Q4_K": (0, 2), "Q5_K": (0, 2), "Q6_K": (208,),
}  # fmt: skip


def blocks_of(kind: str, halves: np.ndarray | None) -> np.ndarray:
    """Random bytes ``[rows, bytes]`` of 8 blocks a row, with scales of ``halves`` where given."""
    generator = np.random.default_rng(1)
    block_bytes = gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType[kind]][1]
    blocks = generator.integers(0, 256, (96, block_bytes), dtype=np.uint8)
    if halves is not None:
        for place in SCALE_PLACES[kind]:
            chosen = generator.choice(halves, len(blocks)).astype(np.float16)
            blocks[:, place : place + 2] = chosen.view(np.uint8).reshape(-1, 2)
    return blocks.reshape(12, -1)


def same_bits(values: torch.Tensor, expected: np.ndarray) -> bool:
    """But for which NaN it is."""
    found = values.numpy()
    is_same = found.view(np.uint32) == np.ascontiguousarray(expected, dtype=np.float32).view(np.uint32)
    return bool((is_same | (np.isnan(found) & np.isnan(expected))).all())


@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")
@pytest.mark.parametrize("halves", [None, EXTREME_HALVES], ids=["any", "extreme"])
@pytest.mark.parametrize("kind", QUANTISED)
def test_values_are_the_packages(kind: str, halves: np.ndarray | None) -> None:
    blocks = blocks_of(kind, halves)
    expected = gguf.quants.dequantize(blocks, gguf.GGMLQuantizationType[kind])
    assert same_bits(dequantized(blocks, kind), expected)
    assert same_bits(dequantized(blocks[5:7], kind), expected[5:7])


@pytest.mark.parametrize("kind", QUANTISED)
def test_rounding_to_another_type_comes_last(kind: str) -> None:
    blocks = blocks_of(kind, np.array([0.01, 0.3], np.float16))
    assert torch.equal(dequantized(blocks, kind, torch.bfloat16), dequantized(blocks, kind).bfloat16())


@pytest.mark.parametrize("kind", BITS)
def test_kept_weights_have_the_same_values(kind: str) -> None:
    blocks = blocks_of(kind, np.array([0.01, -0.3, 6e-8, 60000.0], np.float16))
    if kind == "Q8_0":  # which never has -128
        codes = blocks.reshape(-1, 34)[:, 2:]
        codes[codes == 128] = 129
    assert torch.equal(values_of(quantized(blocks, kind)), dequantized(blocks, kind))


def test_sizes_of_types_are_the_packages() -> None:
    for number, (name, block_len, block_bytes) in TYPES.items():
        kind = gguf.GGMLQuantizationType(number)
        assert (name, (block_len, block_bytes)) == (kind.name, gguf.GGML_QUANT_SIZES[kind])


def test_rare_types_are_read_by_the_package_or_named(monkeypatch: pytest.MonkeyPatch) -> None:
    blocks = blocks_of("IQ4_NL", None)
    expected = gguf.quants.dequantize(blocks, gguf.GGMLQuantizationType.IQ4_NL)
    assert same_bits(dequantized(blocks, "IQ4_NL"), expected)
    monkeypatch.setitem(__import__("sys").modules, "gguf", None)
    with pytest.raises(UnsupportedModelError, match=r"the type IQ4_NL is not read.*pip install gguf"):
        dequantized(blocks, "IQ4_NL")

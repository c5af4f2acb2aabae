"""The ops composed from torch's own against the references. On a GPU too, where they are what runs; there rows keep their bits."""

from __future__ import annotations

import random

import pytest
import torch

from specgrove.kernels import composed, composed_linear, reference
from specgrove.kernels.activations import Activation
from specgrove.kernels.attention import AttentionBatch
from specgrove.kernels.composed_linear import ComposedLinear, ComposedQuantizedLinear
from specgrove.kernels.quantized_linear import quantize
from specgrove.program.forward_batch import ForwardBatch
from tests.devices import DEVICES
from tests.kernels import reference_linears
from tests.kernels.test_attention import random_caches, random_rows

ACTIVATIONS: list[Activation] = ["silu", "gelu", "gelu_tanh", "relu"]


@pytest.fixture(params=DEVICES)
def device(request: pytest.FixtureRequest) -> torch.device:
    return torch.device(request.param)


def close(found: torch.Tensor, expected: torch.Tensor, tolerance: float = 2e-5) -> bool:
    return bool(torch.allclose(found.cpu().double(), expected.double(), tolerance, tolerance, equal_nan=True))


def test_norms_equal_float64(device: torch.device) -> None:
    x, delta = torch.randn(2, 9, 77).unbind()
    weight, bias = torch.randn(2, 77).unbind()
    there = [tensor.to(device, copy=True) for tensor in (x, delta, weight, bias)]
    assert close(composed.rms_norm(there[0], there[2], 1e-5), reference.rms_norm(x, weight, 1e-5))
    assert close(composed.layer_norm(there[0], there[2], there[3], 1e-5), reference.layer_norm(x, weight, bias, 1e-5))
    found = composed.add_rms_norm(there[0], there[1], there[2], 1e-5)
    assert close(found, reference.add_rms_norm(x, delta, weight, 1e-5))
    found = composed.add_layer_norm(there[0], there[1], there[2], None, 1e-5)
    assert close(found, reference.add_layer_norm(x, delta, weight, None, 1e-5))
    assert torch.equal(there[0].cpu(), x)
    qkv, head_weight = torch.randn(5, 6 * 8), torch.randn(8)
    qkv_there = qkv.to(device, copy=True)
    composed.head_rms_norm(qkv_there, head_weight.to(device, copy=True), 1e-6, 1, 3, 8)
    reference.head_rms_norm(qkv, head_weight, 1e-6, 1, 3, 8)
    assert close(qkv_there, qkv)


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_activations_equal_float64(activation: Activation, device: torch.device) -> None:
    x = torch.randn(7, 64) * 5
    assert close(composed.activate(x.to(device, copy=True), activation), reference.activate(x, activation))
    assert close(composed.gated(x.to(device, copy=True), activation), reference.gated(x, activation))


@pytest.mark.parametrize("is_rotated", [False, True])
def test_keys_and_values_go_to_their_slots(is_rotated: bool, device: torch.device) -> None:
    qkv = torch.randn(5, (6 + 2 * 2) * 8)
    positions, slots = torch.tensor([[3, 0, 7, 1, 2], [4, 1, 9, 0, 6]], dtype=torch.int32).unbind()
    cos_sin = torch.randn(8, 8) if is_rotated else None
    caches = [torch.zeros(10, 2, 8, dtype=torch.bfloat16) for _ in range(2)]
    caches_there = [cache.to(device, copy=True) for cache in caches]
    expected = reference.rotate_and_store(qkv, positions, cos_sin, slots, *caches)
    qkv, positions, slots = (tensor.to(device, copy=True) for tensor in (qkv, positions, slots))
    cos_sin = None if cos_sin is None else cos_sin.to(device)
    assert close(composed.rotate_and_store(qkv, positions, cos_sin, slots, *caches_there), expected, 1e-6)
    for found, wanted in zip(caches_there, caches, strict=True):
        assert close(found, wanted, 1e-2)  # one unit of bfloat16: products may be fused


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("window", [None, 1, 40, 150])
def test_attention_equals_float64(seed: int, window: int | None, device: torch.device) -> None:
    batch, queries, k_cache, v_cache = _attention_example(seed)
    for cache in (k_cache, v_cache):
        cache[0] = torch.nan  # what stands in slots that a row doesn't see is of no matter to it
    slopes = torch.rand(queries.shape[1]) if seed % 2 else None
    expected = reference.tree_attention(queries, k_cache, v_cache, batch, 0.3, slopes, window)
    there = (queries.to(device), k_cache.to(device), v_cache.to(device))
    slopes = None if slopes is None else slopes.to(device)
    found = composed.tree_attention(*there, batch, 0.3, slopes, window)
    assert not expected.isnan().all(-1).all()
    assert close(found, expected)


def _attention_example(seed: int) -> tuple[AttentionBatch, torch.Tensor, torch.Tensor, torch.Tensor]:
    torch.manual_seed(seed)
    num_kv_heads, group, head_dim = (1, 4, 64) if seed % 3 else (2, 3, 40)
    batch = ForwardBatch(random_rows(random.Random(seed))).attention
    queries = torch.randn(batch.row_seq.shape[0], num_kv_heads * group, head_dim)
    return batch, queries, *random_caches(torch.float32, num_kv_heads, head_dim)


@pytest.mark.parametrize("num_expanded_at_once", [1, 1000, 1 << 22])
def test_linears_equal_float64(
    num_expanded_at_once: int, device: torch.device, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(composed_linear, "EXPANDED_AT_ONCE", num_expanded_at_once)
    torch.manual_seed(0)
    x, weight, bias = torch.randn(70, 96), torch.randn(50, 96), torch.randn(50)
    found = ComposedLinear(weight.to(device, copy=True), bias.to(device, copy=True))(x.to(device, copy=True))
    assert close(found, reference_linears.linear(x, weight, bias), 1e-4)
    assert ComposedLinear(weight.to(device, copy=True), None)(x[:0].to(device)).shape == (0, 50)
    for bits, group_size in ((8, None), (8, 32), (4, 32), (4, None)):
        quantized = quantize(weight, bits, group_size)
        linear = ComposedQuantizedLinear(quantized, bias.to(device, copy=True), torch.float32)
        assert linear.nbytes < weight.nbytes / 2
        linear.parts = tuple(part.to(device, copy=True) for part in linear.parts)
        assert close(linear(x.to(device, copy=True)), reference_linears.linear(x, quantized.dequantized(), bias), 1e-4)


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_a_rows_bits_are_its_own(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    x = torch.randn(200, 576, device="cuda") * 3
    ops = {
        "linear": ComposedLinear(torch.randn(1536, 576, device="cuda").to(dtype)),
        "rms_norm": lambda rows: composed.rms_norm(rows, x[0], 1e-5),
        "layer_norm": lambda rows: composed.layer_norm(rows, x[0], x[1], 1e-5),
        "gated": lambda rows: composed.gated(rows, "silu"),
    }
    for name, op in ops.items():
        one_by_one = torch.cat([op(row[None]) for row in x])
        for num_rows in (2, 7, 16, 64, 200):
            assert torch.equal(op(x[-num_rows:]), one_by_one[-num_rows:]), name

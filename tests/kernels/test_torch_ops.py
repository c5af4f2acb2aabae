"""The ops in torch against formulas written down one row at a time, in float64; in float32, as they are served, against float64. On a GPU
too: there rows keep their bits.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any, get_args

import pytest
import torch

from specgrove.kernels import torch_linear, torch_ops
from specgrove.kernels.activations import Activation
from specgrove.kernels.quantized_linear import quantize
from specgrove.kernels.rows import PassRows
from specgrove.kernels.torch_linear import TorchLinear, TorchQuantizedLinear
from specgrove.kernels.torch_ops import KeyTable
from specgrove.runtime.pass_builder import PassBuilder, TreeRows
from tests.devices import DEVICES

NUM_SLOTS = 400
EXACT = {torch.float64: 1e-12, torch.float32: 2e-5}
DTYPES = list(EXACT)


@pytest.fixture(params=DEVICES)
def device(request: pytest.FixtureRequest) -> torch.device:
    return torch.device(request.param)


def assert_close(found: torch.Tensor, expected: torch.Tensor) -> None:
    tolerance = EXACT[found.dtype]
    assert torch.allclose(found.cpu().double(), expected, tolerance, tolerance)


@pytest.mark.parametrize("dtype", DTYPES)
def test_norms_are_their_formulas(dtype: torch.dtype, device: torch.device) -> None:
    x, (scale, shift) = torch.randn(9, 77, dtype=torch.float64), torch.randn(2, 77)
    there = [tensor.to(device) for tensor in (x.to(dtype), scale, shift)]
    mean, deviations = x.mean(-1, keepdim=True), x - x.mean(-1, keepdim=True)
    rms = x / (x.square().mean(-1, keepdim=True) + 1e-5).sqrt() * scale
    assert mean.abs().max() > 0.1
    layer = deviations / (deviations.square().mean(-1, keepdim=True) + 1e-5).sqrt() * scale
    assert_close(torch_ops.norm(there[0], "rms", there[1], None, 1e-5), rms)
    assert_close(torch_ops.norm(there[0], "layer", there[1], None, 1e-5), layer)
    assert_close(torch_ops.norm(there[0], "layer", there[1], there[2], 1e-5), layer + shift)


@pytest.mark.parametrize("dtype", DTYPES)
def test_heads_are_normed_by_themselves_and_no_others(dtype: torch.dtype, device: torch.device) -> None:
    x, scale = torch.randn(5, 6 * 8, dtype=torch.float64), torch.randn(8)
    there = x.to(device, dtype, copy=True)
    torch_ops.head_norm(there, scale.to(device), 1e-6, 1, 3, 8)
    for head in range(6):
        part = x[:, 8 * head : 8 * head + 8]
        normed = part / (part.square().mean(-1, keepdim=True) + 1e-6).sqrt() * scale
        assert_close(there[:, 8 * head : 8 * head + 8], normed if 1 <= head < 4 else part)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("activation", get_args(Activation))
def test_activations_are_their_formulas(activation: Activation, dtype: torch.dtype, device: torch.device) -> None:
    x = torch.randn(7, 64, dtype=torch.float64) * 5
    normal = torch.special.ndtr(x)
    by_tanh = 0.5 * (1 + torch.tanh((2 / torch.pi) ** 0.5 * (x + 0.044715 * x**3)))
    gates = {"silu": 1 / (1 + torch.exp(-x)), "relu": (x > 0).double(), "gelu": normal, "gelu_tanh": by_tanh}
    expected = x * gates[activation]
    there = x.to(device, dtype)
    assert_close(torch_ops.activate(there, activation, is_gated=False), expected)
    assert_close(torch_ops.activate(there, activation, is_gated=True), expected[:, :32] * x[:, 32:])


@pytest.mark.parametrize("is_rotated", [False, True])
def test_keys_and_values_go_to_their_slots(is_rotated: bool, device: torch.device) -> None:
    """Heads of two halves, turned by an angle each: complex numbers say the same."""
    qkv = torch.randn(5, (6 + 2 * 2) * 8, dtype=torch.float64)
    positions, slots = torch.tensor([[3, 0, 7, 1, 2], [4, 1, 9, 0, 6]]).unbind()
    angles = torch.randn(8, 4)
    cos_sin = torch.cat([angles.cos(), angles.sin()], dim=1) if is_rotated else None
    heads = torch.complex(*qkv.view(5, 10, 2, 4).unbind(2))
    if cos_sin is not None:
        turns = torch.complex(*cos_sin.double()[positions].view(5, 1, 2, 4).unbind(2))
        heads[:, :8] = heads[:, :8] * turns
    expected = torch.cat([heads.real, heads.imag], dim=-1)
    caches = [torch.zeros(10, 2, 8, dtype=torch.float64, device=device) for _ in range(2)]
    cos_sin = None if cos_sin is None else cos_sin.to(device)
    places = (positions.to(device), cos_sin, slots.to(device))
    queries = torch_ops.rotate_store(qkv.to(device, copy=True), *places, *caches)
    assert_close(queries, expected[:, :6])
    assert_close(caches[0][slots], expected[:, 6:8])
    assert_close(caches[1][slots], expected[:, 8:])
    unwritten = [slot for slot in range(10) if slot not in slots.tolist()]
    assert not any(cache[unwritten].any() for cache in caches)


def random_rows(rng: random.Random) -> PassRows:
    """Several sequences: prompt chunks, trees (one of more than 64 nodes), and both. Slot 0 is nobody's."""
    slots = list(range(1, NUM_SLOTS))
    rng.shuffle(slots)
    builder = PassBuilder()
    for context_len, chunk_len, num_nodes in ((0, 0, 5), (170, 9, 0), (33, 0, 70), (1, 1, 1), (40, 8, 12)):
        context = [slots.pop() for _ in range(context_len)]
        parents = [-1, *(rng.randrange(max(0, node - 6), node) for node in range(1, num_nodes))]
        tree = TreeRows([0] * num_nodes, parents, [slots.pop() for _ in range(num_nodes)]) if num_nodes else None
        builder.add(context, [0] * chunk_len, tree)
    return builder.build()


def keys_of(rows: PassRows, row: int) -> list[int]:
    """The slots of a row's keys by position, by the words of ``PassRows``."""
    sequence = rows.row_seq[row]
    start = rows.context_offsets[sequence]
    tree = rows.tree_slots[rows.tree_offsets[sequence] : rows.tree_offsets[sequence + 1]]
    words = rows.row_masks[row * rows.num_mask_words : (row + 1) * rows.num_mask_words]
    own = [slot for node, slot in enumerate(tree) if words[node // 64] >> (node % 64) & 1]
    return [*rows.context_slots[start : start + rows.row_context_len[row]], *own]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("window", [None, 1, 40, 150])
def test_attention_is_its_formula(seed: int, window: int | None, dtype: torch.dtype, device: torch.device) -> None:
    torch.manual_seed(seed)
    rows, (num_kv_heads, group, head_dim) = random_rows(random.Random(seed)), (1, 4, 64) if seed % 3 else (2, 3, 40)
    queries = torch.randn(rows.num_rows, num_kv_heads * group, head_dim, dtype=torch.float64)
    caches = [torch.randn(NUM_SLOTS, num_kv_heads, head_dim) for _ in range(2)]
    for cache in caches:
        cache[0] = torch.nan  # what stands in slots that a row doesn't see is of no matter to it
    slopes = torch.rand(num_kv_heads * group) if seed % 2 else None
    there = [queries.to(device, dtype), *(cache.to(device) for cache in caches)]
    bias = None if slopes is None else slopes.to(device)
    soft_cap = 1.5 if seed > 1 else None
    found = torch_ops.attend(*there, KeyTable.of(rows).to(device), 0.3, bias, window, soft_cap)
    for row in range(rows.num_rows):
        slots = keys_of(rows, row)[-(window or NUM_SLOTS) :]
        keys, values = (cache[slots].double().repeat_interleave(group, dim=1) for cache in caches)
        scores = torch.einsum("hd,khd->hk", queries[row], keys) * 0.3
        if soft_cap is not None:
            scores = soft_cap * torch.tanh(scores / soft_cap)
        if slopes is not None:
            scores += slopes.double()[:, None] * (torch.arange(len(slots)) - (len(slots) - 1))
        assert_close(found[row], torch.einsum("hk,khd->hd", torch.softmax(scores, dim=-1), values).flatten())


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("num_expanded_at_once", [1, 1000, 1 << 22])
def test_linears_are_their_formula(
    num_expanded_at_once: int, dtype: torch.dtype, device: torch.device, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch_linear, "EXPANDED_AT_ONCE", num_expanded_at_once)
    torch.manual_seed(0)
    x, weight, bias = torch.randn(70, 96, dtype=torch.float64), torch.randn(50, 96), torch.randn(50)
    x_there, bias_there = x.to(device, dtype), bias.to(device)

    def check(linear: TorchLinear, exact: torch.Tensor) -> None:
        found = linear(x_there)
        assert found.dtype is dtype
        # Weights of float32 multiply in float32 at most, but for inputs in float64.
        given = x_there.to(exact.dtype).double().cpu()
        tolerance = 10 * EXACT[dtype]
        assert torch.allclose(found.cpu().double(), given @ exact.double().T + bias, tolerance, tolerance)

    check(TorchLinear(weight.to(device), bias_there), weight)
    check(TorchLinear(weight.to(device).double(), bias_there), weight.double())
    assert TorchLinear(weight.to(device), None)(x_there[:0]).shape == (0, 50)
    for bits, group_size in ((8, None), (8, 32), (4, 32), (4, None)):
        quantized = quantize(weight, bits, group_size)
        linear = TorchQuantizedLinear(quantized, bias_there, torch.float32)
        assert linear.nbytes < weight.nbytes / 2
        linear.parts = tuple(part.to(device) for part in linear.parts)
        check(linear, quantized.dequantized())


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_a_rows_bits_are_its_own(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    x = torch.randn(200, 576, device="cuda") * 3
    ops: dict[str, Callable[[Any], torch.Tensor]] = {
        "linear": TorchLinear(torch.randn(1536, 576, device="cuda").to(dtype)),
        "rms norm": lambda rows: torch_ops.norm(rows, "rms", x[0], None, 1e-5),
        "layer norm": lambda rows: torch_ops.norm(rows, "layer", x[0], x[1], 1e-5),
        "gated": lambda rows: torch_ops.activate(rows, "silu", is_gated=True),
    }
    for name, op in ops.items():
        one_by_one = torch.cat([op(row[None]) for row in x])
        for num_rows in (2, 7, 16, 64, 200):
            assert torch.equal(op(x[-num_rows:]), one_by_one[-num_rows:]), name

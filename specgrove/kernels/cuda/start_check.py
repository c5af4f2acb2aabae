"""Runs the kernels for GPUs on a few random numbers when a service starts: what another card or compiler breaks is not served.

Every kernel that a decoder uses is compared with the same computation by torch or by the CPU's kernels; and where speculation relies on it,
a row alone must have the bits of the same row among others. Kernels that take an op's fields alone are compared by the op's own examples,
in ``specgrove.program.start_check``. Takes well below a second on a GPU, and in a process of its own that of
starting one: a kernel that reads where it may not leaves its process without a GPU, and one that hangs never comes back.
"""

from __future__ import annotations

import contextlib
import subprocess
import sys
from array import array
from collections.abc import Iterator

import torch
from torch.nn import functional

from specgrove.kernels import sampling, torch_ops
from specgrove.kernels.cuda import attention, choices
from specgrove.kernels.cuda.attention import AttentionPlan
from specgrove.kernels.cuda.backend import KernelsMissingError, launch
from specgrove.kernels.cuda.linear import PackedDeviceLinear
from specgrove.kernels.device_memory import AttentionHeads
from specgrove.kernels.quantized_linear import quantize
from specgrove.kernels.rows import PassRows
from specgrove.kernels.sampling import ChoiceParams

_TOLERANCE = 0.03  # of bfloat16 results, relative to the largest number
_CONTEXT_LEN, _NUM_NODES = (
    2300,
    70,
)  # 10 splits of keys, more than are merged at once; more queries than small blocks take
_GROUP_SIZE = 32
_MANY = 1 << 20  # processors, so that blocks are small
# It stands above the kernels, so it is known by its name alone: most ops bring their own comparison.
_PROGRAM = "specgrove.program.start_check"
_TIMEOUT_S = 180.0  # mostly for importing torch from a slow disk


class KernelsWrongError(RuntimeError):
    """A kernel doesn't give what it should on this device."""


def check_kernels_apart(
    heads: AttentionHeads, dtype: torch.dtype, device: torch.device, timeout_s: float = _TIMEOUT_S
) -> None:
    """``check_kernels`` in another process. Raises ``KernelsWrongError`` also where that dies, or takes too long."""
    shape = (heads.num_heads, heads.num_kv_heads, heads.head_dim)
    arguments = [*map(str, shape), str(dtype).removeprefix("torch."), str(device)]
    command = [sys.executable, "-m", _PROGRAM, *arguments]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=timeout_s, check=False)
    except subprocess.TimeoutExpired:
        raise KernelsWrongError(f"their check did not end within {timeout_s:g} s") from None
    if done.returncode != 0:
        lines = done.stderr.strip().splitlines()
        raise KernelsWrongError(lines[-1] if lines else f"their check ended with code {done.returncode}")


def check_kernels(heads: AttentionHeads, dtype: torch.dtype, device: torch.device) -> None:
    """Raises ``KernelsWrongError`` that names the kernel; ``dtype`` is bfloat16 or float16."""
    generator = torch.Generator().manual_seed(0)
    with torch.inference_mode():
        with named("tree attention", device):
            _check_attention(heads, dtype, device, generator)
        for bits in (16, 8, 4):
            with named(f"the linear over {bits} bits", device):
                _check_linear(bits, dtype, device, generator)
        with named("norms, embedding and rotary embedding", device):
            _check_elementwise(dtype, device, generator)
        with named("choices of tokens", device):
            _check_choices(device, generator)


@contextlib.contextmanager
def named(kernels: str, device: torch.device) -> Iterator[None]:
    """What a device fails with is told later, and doesn't say where."""
    try:
        yield
        if device.type == "cuda":
            torch.cuda.synchronize(device)
    except (KernelsWrongError, KernelsMissingError):
        raise
    except RuntimeError as error:
        raise KernelsWrongError(f"{kernels}: {str(error).partition(chr(10))[0]}") from error


def _random(generator: torch.Generator, *shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=generator)


def compare(kernel: str, found: torch.Tensor, expected: torch.Tensor) -> None:
    """Raises ``KernelsWrongError`` that names the kernel."""
    error = (found.float() - expected.float()).abs().max().item()
    allowed = _TOLERANCE * expected.float().abs().max().item()
    if not error <= allowed:
        raise KernelsWrongError(f"{kernel} differs from torch by {error:.3g}, where {allowed:.3g} is allowed")


def _compare_bits(kernel: str, alone: torch.Tensor, among_others: torch.Tensor) -> None:
    if not torch.equal(alone, among_others):
        raise KernelsWrongError(f"{kernel} gives a row other bits alone than among other rows")


def _check_attention(
    heads: AttentionHeads, dtype: torch.dtype, device: torch.device, generator: torch.Generator
) -> None:
    num_slots = _CONTEXT_LEN + _NUM_NODES
    shape = (num_slots, heads.num_kv_heads, heads.head_dim)
    k_cache, v_cache = (_random(generator, *shape).to(device, dtype) for _ in range(2))
    queries = _random(generator, _NUM_NODES, heads.num_heads, heads.head_dim).to(device, dtype)
    scale = heads.head_dim**-0.5

    def run(nodes: list[int], processors: int | None = None) -> torch.Tensor:
        rows = _path_rows(nodes)
        own = queries[nodes].contiguous()
        out = torch.empty(len(nodes), heads.num_heads * heads.head_dim, dtype=dtype, device=device)
        plan = AttentionPlan.of(rows, heads, len(nodes), device, processors)
        attention.tree_attention(own, k_cache, v_cache, plan, scale, out)
        return out

    together = run(list(range(_NUM_NODES)))  # by large blocks
    group_size = heads.group_size
    for node in (0, _NUM_NODES - 1):
        seen = _CONTEXT_LEN + node + 1  # a chain
        keys, values = (
            cache[:seen].float().repeat_interleave(group_size, dim=1).transpose(0, 1) for cache in (k_cache, v_cache)
        )
        weights = torch.softmax(queries[node, :, None].float() @ keys.transpose(1, 2) * scale, dim=-1)
        compare("tree attention", together[node], (weights @ values).flatten())
        for processors in (None, 1):  # where there are few, a block takes eight splits
            _compare_bits("tree attention", run([node], processors)[0], together[node])


def _path_rows(nodes: list[int]) -> PassRows:
    """Nodes of a chain after one context, each with its ancestors in the mask."""
    rows = PassRows(context_slots=array("i", range(_CONTEXT_LEN)), context_offsets=array("i", [0, _CONTEXT_LEN]))
    rows.tree_slots = array("i", range(_CONTEXT_LEN, _CONTEXT_LEN + _NUM_NODES))
    rows.tree_offsets = array("i", [0, _NUM_NODES])
    rows.token_ids = array("q", nodes)
    rows.row_seq = array("i", [0] * len(nodes))
    rows.row_context_len = array("i", [_CONTEXT_LEN] * len(nodes))
    num_mask_bytes = 8 * (_NUM_NODES // 64 + 1)
    rows.row_masks = array("q", b"".join(((1 << node + 1) - 1).to_bytes(num_mask_bytes, "little") for node in nodes))
    return rows


def _check_linear(bits: int, dtype: torch.dtype, device: torch.device, generator: torch.Generator) -> None:
    out_features, in_features, num_rows = 96, 2080, 40  # two splits of the inputs
    weight = _random(generator, out_features, in_features)
    packed = weight if bits == 16 else quantize(weight, bits, _GROUP_SIZE if bits == 4 else None)
    values = packed if isinstance(packed, torch.Tensor) else packed.dequantized()
    bias = _random(generator, out_features).to(device)
    linear = PackedDeviceLinear(packed, bias, dtype, device, processors=_MANY)
    x = _random(generator, num_rows, in_features).to(device, dtype)
    together = linear(x)
    without_bias = together - linear(torch.zeros_like(x))
    name = f"the linear over {bits} bits"
    compare(name, without_bias, functional.linear(x.float(), values.to(device, dtype).float()))
    for processors, first, end in ((_MANY, 0, 1), (_MANY, 3, 12), (1, 0, 40), (1, 5, 30), (4, 3, 19)):
        other = PackedDeviceLinear(packed, bias, dtype, device, processors=processors)  # by other blocks
        _compare_bits(name, other(x[first:end].clone()), together[first:end])


def _check_elementwise(dtype: torch.dtype, device: torch.device, generator: torch.Generator) -> None:
    num_rows, size, eps = 5, 272, 1e-5
    hidden, delta = (_random(generator, num_rows, size).to(device) for _ in range(2))
    scale, shift = (_random(generator, size).to(device) for _ in range(2))
    out = torch.empty(num_rows, size, dtype=dtype, device=device)
    norm = {"delta": delta, "scale": scale, "eps": eps}
    launch("AddNorm", kind="rms", x=hidden.clone(), out=out, **norm)
    compare("the RMS norm", out, torch_ops.norm(hidden + delta, "rms", scale, None, eps))
    launch("AddNorm", kind="layer", x=hidden.clone(), out=out, shift=shift, **norm)
    compare("the layer norm", out, torch_ops.norm(hidden + delta, "layer", scale, shift, eps))
    some = torch.tensor([3, 1], dtype=torch.int32, device=device)
    launch("AddNorm", kind="rms", x=hidden.clone(), out=out[:2], rows=some, **norm)
    compare("the RMS norm of some rows", out[:2], torch_ops.norm(hidden + delta, "rms", scale, None, eps)[some])
    table = _random(generator, 7, size).to(device, dtype)
    embedded = torch.empty(num_rows, size, device=device)
    positions, slots = (torch.arange(num_rows, dtype=torch.int32, device=device) for _ in range(2))
    launch("Embed", table=table, token_ids=positions, out=embedded, scale=2.0, first_id=0)
    compare("the embedding", embedded, table[:num_rows].float() * 2.0)
    num_heads, num_kv_heads, head_dim = 3, 2, 64
    qkv = _random(generator, num_rows, (num_heads + 2 * num_kv_heads) * head_dim).to(device)
    angles = _random(generator, num_rows, head_dim).to(device)
    queries = torch.empty(num_rows, num_heads * head_dim, dtype=dtype, device=device)
    caches = [torch.zeros(num_rows, num_kv_heads, head_dim, dtype=dtype, device=device) for _ in range(4)]
    heads = {"num_heads": num_heads, "num_kv_heads": num_kv_heads, "head_dim": head_dim}
    places = {"positions": positions, "slots": slots, "cos_sin": angles, "k_cache": caches[0], "v_cache": caches[1]}
    launch("RotateStore", qkv=qkv, queries=queries, **places, **heads)
    expected = torch_ops.rotate_store(qkv, positions, angles, slots, caches[2], caches[3]).flatten(1)
    for found, wanted in ((queries, expected), (caches[0], caches[2]), (caches[1], caches[3])):
        compare("the rotary embedding", found, wanted)


def _check_choices(device: torch.device, generator: torch.Generator) -> None:
    num_rows, vocab_size = 6, 3001
    logits = _random(generator, num_rows, vocab_size) * 4
    temperatures = torch.tensor([0.0, 0.5, 1.0] * 2)
    seeds = torch.arange(num_rows)
    out = torch.empty(num_rows, dtype=torch.int64, device=device)
    choices.choose(logits.to(device), temperatures.to(device), seeds.to(device), (7 * seeds).to(device), out)
    for row, found in enumerate(out.tolist()):
        params = ChoiceParams(temperature=float(temperatures[row]), seed=row)
        if sampling.choose(logits[row], params, 7 * row) != found:
            raise KernelsWrongError("the choice of tokens differs from the CPU's")
    taken = torch.tensor([5, -2], dtype=torch.int32, device=device)
    choices.take_choices(taken, out)
    if taken.tolist() != [5, out[1].item()]:
        raise KernelsWrongError("tokens that the pass before has chosen are not taken over")
    log_probs = torch.empty(num_rows, 4, device=device)
    token_ids = torch.empty(num_rows, 4, dtype=torch.int32, device=device)
    choices.top_k_log_probs(logits.to(device), 4, log_probs, token_ids)
    if not torch.equal(token_ids.long().cpu(), sampling.top_k_log_probs(logits, 4)[1]):
        raise KernelsWrongError("the most probable tokens differ from the CPU's")

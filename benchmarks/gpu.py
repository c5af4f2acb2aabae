"""The kernels for GPUs beside what the same card does in the same run: its copy bandwidth, and torch's attention and matrix products.

    python -m benchmarks.gpu [--only attention linears] [--json FILE]      (make bench-gpu OUT=FILE)

Contestants take turns; every figure is the median over the turns. Attention: trees after long prefixes, against the time to read their
keys and values once. Linears: those of one layer of a model of Llama 7B's shape, against the time to read their weights once.
``--device cpu`` runs tiny shapes in the emulator: that shows that the program works, and no speed.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from rich.progress import track
from torch.nn import functional

from specgrove.kernels.cuda.attention import AttentionHeads, AttentionPlan, tree_attention
from specgrove.kernels.cuda.backend import kernels_for
from specgrove.kernels.cuda.linear import LinearWorkspace, PackedDeviceLinear
from specgrove.kernels.quantized_linear import quantize
from specgrove.runtime.forward_batch import BatchBuilder, TreeRows

NUM_HEADS, NUM_KV_HEADS, HEAD_DIM = 32, 8, 128
HIDDEN, INNER = 4096, 11008
LAYER_SHAPES = ((3 * HIDDEN, HIDDEN), (HIDDEN, HIDDEN), (2 * INNER, HIDDEN), (HIDDEN, INNER))
GROUP_SIZE = 32
BRANCHING = 3  # of the trees


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table. ``share`` is of the copy bandwidth."""

    what: str
    contestant: str
    ms: float
    spread_ms: tuple[float, float]
    share: float


class Clock:
    """Times calls on a device; on the CPU by the wall."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        # Between two calls the cache is overwritten: in a decoder, other layers' weights pass through it.
        self._flush = torch.empty(1 << 28 if device.type == "cuda" else 1, dtype=torch.uint8, device=device)

    def ms(self, run: Callable[[], object]) -> float:
        """Milliseconds of one call."""
        self._flush.zero_()
        if self._device.type != "cuda":
            started_s = time.perf_counter()
            run()
            return (time.perf_counter() - started_s) * 1e3
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        run()
        end.record()
        end.synchronize()
        return float(start.elapsed_time(end))


def copy_bytes_per_ms(clock: Clock, device: torch.device) -> float:
    """Bytes read and written per millisecond by a copy of a large tensor."""
    source = torch.empty(1 << 30 if device.type == "cuda" else 1 << 16, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    return 2 * source.nbytes / statistics.median(clock.ms(lambda: target.copy_(source)) for _ in range(9))


def compare(
    what: str,
    contestants: dict[str, Callable[[], object]],
    num_bytes: int,
    clock: Clock,
    bytes_per_ms: float,
    num_turns: int,
) -> list[Row]:
    """Times the contestants by turns, after a call of each that isn't counted."""
    for run in contestants.values():
        run()
    times_ms: dict[str, list[float]] = {name: [] for name in contestants}
    for _ in range(num_turns):
        for name, run in contestants.items():
            times_ms[name].append(clock.ms(run))
    return [
        Row(what, name, statistics.median(own), (min(own), max(own)), num_bytes / bytes_per_ms / statistics.median(own))
        for name, own in times_ms.items()
    ]


def attention_contestants(
    batch_size: int, prefix_len: int, num_nodes: int, device: torch.device
) -> tuple[dict[str, Callable[[], object]], int]:
    """Trees of ``num_nodes`` after prefixes, and the bytes of all keys and values."""
    dtype = torch.bfloat16
    seq_len = prefix_len + num_nodes
    shape = (batch_size * seq_len, NUM_KV_HEADS, HEAD_DIM)
    k_cache, v_cache = (torch.randn(shape, dtype=dtype, device=device) for _ in range(2))
    queries = torch.randn(batch_size * num_nodes, NUM_HEADS, HEAD_DIM, dtype=dtype, device=device)
    out = torch.empty(len(queries), NUM_HEADS * HEAD_DIM, dtype=dtype, device=device)
    parents = [-1, *((node - 1) // BRANCHING for node in range(1, num_nodes))]
    builder = BatchBuilder()
    for sequence in range(batch_size):
        slots = range(sequence * seq_len, (sequence + 1) * seq_len)
        builder.add(slots[:prefix_len], (), TreeRows([0] * num_nodes, parents, slots[prefix_len:]))
    batch = builder.build().attention
    heads = AttentionHeads(NUM_HEADS, NUM_KV_HEADS, HEAD_DIM)
    plan = AttentionPlan.of(batch, heads, len(queries), device)
    scale = HEAD_DIM**-0.5

    # torch's attention gets what it is best at: keys and values of a sequence in one piece, and the mask ready-made.
    bits = batch.row_masks[:num_nodes, :, None] >> torch.arange(64) & 1
    tree_mask = bits.flatten(1)[:, :num_nodes].bool().to(device)
    mask = torch.cat([torch.ones(num_nodes, prefix_len, dtype=torch.bool, device=device), tree_mask], dim=1)
    own, keys, values = (
        tensor.view(batch_size, -1, tensor.shape[1], HEAD_DIM).transpose(1, 2) for tensor in (queries, k_cache, v_cache)
    )
    return {
        "SpecGrove": lambda: tree_attention(queries, k_cache, v_cache, plan, scale, out),
        "torch SDPA, explicit mask": lambda: functional.scaled_dot_product_attention(
            own, keys, values, attn_mask=mask, enable_gqa=True
        ),
    }, k_cache.nbytes + v_cache.nbytes


def linear_contestants(
    num_rows: int, shapes: Sequence[tuple[int, int]], device: torch.device
) -> dict[str, tuple[Callable[[], object], int]]:
    """One pass through linears of these shapes in each precision, and the bytes of its weights."""
    dtype = torch.float16
    weights = [torch.randn(shape, dtype=dtype) * 0.02 for shape in shapes]
    inputs = {size: torch.randn(num_rows, size, dtype=dtype, device=device) for _, size in shapes}
    workspace = LinearWorkspace(device)

    def ours(bits: int) -> tuple[Callable[[], object], int]:
        linears = [
            PackedDeviceLinear(
                weight if bits == 16 else quantize(weight.float(), bits, GROUP_SIZE if bits == 4 else None),
                None,
                dtype,
                device,
                workspace,
            )
            for weight in weights
        ]
        return lambda: [linear(inputs[linear.in_features]) for linear in linears], sum(one.nbytes for one in linears)

    on_device = [weight.to(device) for weight in weights]

    def torchs() -> object:
        return [functional.linear(inputs[weight.shape[1]], weight) for weight in on_device]

    return {
        "SpecGrove float16": ours(16),
        "SpecGrove int8": ours(8),
        "SpecGrove int4": ours(4),
        "torch float16": (torchs, sum(weight.nbytes for weight in weights)),
    }


def main() -> None:
    """Prints the table, and writes it where asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--only", choices=("attention", "linears"), nargs="+", default=["attention", "linears"])
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    device = torch.device(arguments.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        parser.error("torch finds no NVIDIA GPU on this machine; --device cpu tries the program in the emulator")
    is_real = device.type == "cuda"
    num_turns = 21 if is_real else 1
    clock = Clock(device)
    bytes_per_ms = copy_bytes_per_ms(clock, device)
    name = torch.cuda.get_device_name() if is_real else "the emulator: times mean nothing"
    print(f"{name}, torch {torch.__version__}, kernels for {kernels_for(device).architectures()}")
    print(f"copies at {bytes_per_ms / 1e9:.2f} TB/s, bytes read and written")
    rows: list[Row] = []
    if "attention" in arguments.only:
        cases = [(b, p, n) for b in (1, 8, 32) for p in (2048, 8192, 32768) for n in (16, 64) if b * p <= 1 << 18]
        for case in track(cases if is_real else [(2, 40, 5)], "attention", transient=True):
            contestants, num_bytes = attention_contestants(*case, device)
            what = "attention: batch {}, prefix {}, {} nodes".format(*case)
            rows += compare(what, contestants, num_bytes, clock, bytes_per_ms, num_turns)
    if "linears" in arguments.only:
        for num_rows in track((1, 8, 16, 32, 64) if is_real else (3,), "linears", transient=True):
            linears = linear_contestants(num_rows, LAYER_SHAPES if is_real else ((48, 64), (64, 96)), device)
            what = f"linears of a 7B layer: {num_rows} rows"
            for contestant, (run, num_bytes) in linears.items():
                rows += compare(what, {contestant: run}, num_bytes, clock, bytes_per_ms, num_turns)
    for row in rows:
        low, high = row.spread_ms
        print(
            f"{row.what:44s} {row.contestant:26s} {row.ms:8.3f} ms ({low:.3f} to {high:.3f}), {row.share:.0%} of copying"
        )
    if arguments.json is not None:
        arguments.json.write_text(json.dumps([asdict(row) for row in rows], indent=1) + "\n")


if __name__ == "__main__":
    main()

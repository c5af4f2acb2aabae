"""Times of the CPU kernels at the shapes of SmolLM2-135M: one pass through all linears, attention, and the choice.

    python -m benchmarks.kernels [--threads 2] [--only linears quantized attention sampling]

Every figure is the median of repeated passes, in milliseconds. Weights of all layers are distinct, so they come from memory.
"""

from __future__ import annotations

import argparse
import statistics
import time
from array import array
from collections.abc import Callable, Sequence
from dataclasses import replace

import torch

from specgrove.kernels.device_memory import AttentionHeads
from specgrove.kernels.linear import PackedLinear
from specgrove.kernels.quantized_linear import QuantizedLinear, quantize
from specgrove.kernels.rows import PassRows
from specgrove.kernels.sampling import ChoiceParams, choose, greedy_choices, top_k_log_probs
from specgrove.kernels.threads import get_isa, set_num_threads
from specgrove.models.decoder.parameters import NormWeights
from specgrove.program.backend import KvCaches
from specgrove.program.cpu import CpuProgram
from specgrove.program.op import Op
from specgrove.program.ops import Activate, AddNorm, Attend, Embed, RotateStore
from specgrove.program.program import BufferSpec, Program
from specgrove.runtime.pass_builder import PassBuilder, TreeRows

NUM_LAYERS, HIDDEN, INNER, VOCAB = 30, 576, 1536, 49152
NUM_HEADS, NUM_KV_HEADS, HEAD_DIM = 9, 3, 64
HEADS = AttentionHeads(NUM_HEADS, NUM_KV_HEADS, HEAD_DIM)
QKV = (NUM_HEADS + 2 * NUM_KV_HEADS) * HEAD_DIM
LAYER_SHAPES = ((QKV, HIDDEN), (HIDDEN, HIDDEN), (2 * INNER, HIDDEN), (HIDDEN, INNER))
NUM_ROWS = (1, 2, 4, 8, 16, 32, 64)
CONTEXT_LENS = (128, 2048, 8192)  # of attention


def median_ms(run: Callable[[], object], seconds: float = 0.7) -> float:
    """Median time of a call, in milliseconds."""
    run()
    times_ms: list[float] = []
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(times_ms) < 3:
        start = time.perf_counter()
        run()
        times_ms.append((time.perf_counter() - start) * 1e3)
    return statistics.median(times_ms)


def time_linears(dtype: torch.dtype) -> None:
    """One pass through the linears of all layers and the head."""
    shapes = [shape for _ in range(NUM_LAYERS) for shape in LAYER_SHAPES] + [(VOCAB, HIDDEN)]
    weights = [(torch.randn(shape) * 0.02).to(dtype) for shape in shapes]
    linears = [PackedLinear(weight) for weight in weights]
    weight_bytes = sum(linear.nbytes for linear in linears)
    print(f"linears, {dtype}, {weight_bytes / 1e6:.0f} MB")
    for num_rows in NUM_ROWS:
        inputs = {size: torch.randn(num_rows, size) for size in (HIDDEN, INNER)}

        def ours(inputs: dict[int, torch.Tensor] = inputs) -> None:
            for linear in linears:
                linear(inputs[linear.in_features])

        def torchs(inputs: dict[int, torch.Tensor] = inputs) -> None:
            for weight in weights:
                torch.nn.functional.linear(inputs[weight.shape[1]].to(dtype), weight)

        # By turns, so that what else the machine does falls on both.
        pairs = [(median_ms(ours, 0.2), median_ms(torchs, 0.2)) for _ in range(3)]
        pass_ms, torch_ms = (statistics.median(times_ms) for times_ms in zip(*pairs, strict=True))
        print(
            f"  {num_rows:3d} rows: {pass_ms:7.2f} ms, {weight_bytes / pass_ms / 1e6:5.1f} GB/s;"
            f" torch {torch_ms:7.2f} ms, {torch_ms / pass_ms:.2f} times as long"
        )


def time_quantized_linears() -> None:
    """The same pass with bfloat16 weights and with weights of 8 and 4 bits."""
    shapes = [shape for _ in range(NUM_LAYERS) for shape in LAYER_SHAPES] + [(VOCAB, HIDDEN)]
    # One weight per shape is quantised and packed again and again: times depend on the places of codes, not on their values.
    weights = {shape: torch.randn(shape) * 0.02 for shape in (*LAYER_SHAPES, (VOCAB, HIDDEN))}
    contestants: dict[str, list[PackedLinear] | list[QuantizedLinear]] = {
        "bfloat16": [PackedLinear(weights[shape].bfloat16()) for shape in shapes]
    }
    for name, bits, group_size in (("int8", 8, None), ("int8/32", 8, 32), ("int4/64", 4, 64), ("int4/32", 4, 32)):
        quantized = {shape: quantize(weight, bits, group_size) for shape, weight in weights.items()}
        contestants[name] = [QuantizedLinear(quantized[shape]) for shape in shapes]
    sizes_mb = {name: sum(linear.nbytes for linear in linears) / 1e6 for name, linears in contestants.items()}
    print(
        "linears by weights (after the slash: group size):",
        ", ".join(f"{name} {mb:.0f} MB" for name, mb in sizes_mb.items()),
    )
    for num_rows in NUM_ROWS:
        inputs = {size: torch.randn(num_rows, size) for size in (HIDDEN, INNER)}

        def one_pass(
            linears: Sequence[PackedLinear | QuantizedLinear], inputs: dict[int, torch.Tensor] = inputs
        ) -> None:
            for linear in linears:
                linear(inputs[linear.in_features])

        # By turns, so that what else the machine does falls on all.
        turns = [
            [median_ms(lambda linears=linears: one_pass(linears), 0.2) for linears in contestants.values()]  # type: ignore[misc]
            for _ in range(3)
        ]
        for name, times_ms in zip(contestants, zip(*turns, strict=True), strict=True):
            pass_ms = statistics.median(times_ms)
            print(f"  {num_rows:3d} rows, {name:8s}: {pass_ms:7.2f} ms, {sizes_mb[name] / pass_ms:5.1f} GB/s")


def tree_rows(context_len: int, num_rows: int) -> PassRows:
    """One sequence: a tree of ``num_rows`` nodes below its context, three children to a node."""
    builder, parents = PassBuilder(), [-1] + [node // 3 for node in range(num_rows - 1)]
    nodes = TreeRows(range(num_rows), parents, range(context_len, context_len + num_rows))
    builder.add(range(context_len), tree=nodes)
    return without_questions(builder.build())


def prompt_rows(context_len: int, num_rows: int) -> PassRows:
    """A chunk of a prompt: the last ``num_rows`` of ``context_len`` positions."""
    builder = PassBuilder()
    builder.add(range(context_len), range(num_rows))
    return builder.build()


def without_questions(rows: PassRows) -> PassRows:
    """Asked for nothing: the program ends before its rows are taken."""
    return replace(rows, asked_rows=array("q"), choices=[])


def op_program(inputs: Sequence[torch.Tensor], ops: Sequence[Op], widths: Sequence[int]) -> CpuProgram:
    """Ops over buffers that begin with ``inputs``, whose rows stand in the order of the token ids; then come others of these widths."""
    embeds = [Embed(buffer, tensor, 1.0, 0, len(tensor)) for buffer, tensor in enumerate(inputs)]
    buffers = [BufferSpec(width) for width in (*(tensor.shape[1] for tensor in inputs), *widths)]
    return CpuProgram(Program((*embeds, *ops), tuple(buffers), HEADS, NUM_LAYERS))


def caches_of(num_slots: int, dtype: torch.dtype) -> KvCaches:
    """Of all layers."""
    keys, values = (
        tuple(torch.randn(num_slots, NUM_KV_HEADS, HEAD_DIM).to(dtype) for _ in range(NUM_LAYERS)) for _ in range(2)
    )
    return KvCaches(keys, values)


def time_attention(dtype: torch.dtype) -> None:
    """Attention of all layers over one cache per layer."""
    caches = caches_of(max(CONTEXT_LENS) + max(NUM_ROWS), dtype)
    attend = [Attend(1, 0, layer, HEADS, HEAD_DIM**-0.5, None, None) for layer in range(NUM_LAYERS)]
    program = op_program([torch.randn(512, HIDDEN)], attend, [HIDDEN])
    print(f"attention of {NUM_LAYERS} layers, {dtype}")
    for name, make_rows, cases in (
        ("tree", tree_rows, tuple((length, rows) for length in CONTEXT_LENS for rows in (1, 8, 16, 32, 64))),
        ("prompt", prompt_rows, tuple((length, rows) for length in (512, 2048) for rows in (64, 256, 512))),
    ):
        for context_len, num_rows in cases:
            rows = make_rows(context_len, num_rows)
            pass_ms = median_ms(lambda rows=rows: program.run(rows, caches))  # type: ignore[misc]
            print(f"  {name:6s} {num_rows:3d} rows, context {context_len:4d}: {pass_ms:7.2f} ms")


def time_small_ops() -> None:
    """The other ops of all layers."""
    print(f"rotary, norms and activation of {NUM_LAYERS} layers")
    caches, cos_sin = caches_of(256, torch.bfloat16), torch.randn(256, HEAD_DIM)
    norm = AddNorm(4, 2, 3, "rms", NormWeights(torch.ones(HIDDEN)), 1e-5)
    layers = [
        (RotateStore(5, 0, layer, HEADS, cos_sin), norm, Activate(6, 1, "silu", True, INNER), norm)
        for layer in range(NUM_LAYERS)
    ]
    inputs = [torch.randn(64, QKV), torch.randn(64, 2 * INNER), torch.randn(64, HIDDEN), torch.zeros(64, HIDDEN)]
    program = op_program(inputs, [op for layer in layers for op in layer], [HIDDEN, HIDDEN, INNER])
    for num_rows in (1, 8, 16, 32, 64):
        rows = prompt_rows(num_rows, num_rows)
        print(f"  {num_rows:3d} rows: {median_ms(lambda rows=rows: program.run(rows, caches)):7.2f} ms")  # type: ignore[misc]


def time_sampling() -> None:
    """One token from one row of logits."""
    logits = torch.randn(VOCAB) * 3.0
    logits[:40] += torch.linspace(14, 6, 40)
    print(f"sampling, vocabulary of {VOCAB}")
    for name, params in {
        "greedy": ChoiceParams(),
        "temperature 0.8": ChoiceParams(temperature=0.8, seed=1),
        "temperature 0.8, top-p 0.95": ChoiceParams(temperature=0.8, top_p=0.95, seed=1),
        "temperature 1.5, top-p 0.95": ChoiceParams(temperature=1.5, top_p=0.95, seed=1),
        "temperature 0.8, top-k 50": ChoiceParams(temperature=0.8, top_k=50, seed=1),
    }.items():
        print(f"  choose, {name}: {median_ms(lambda params=params: choose(logits, params, 7), 0.3):.3f} ms")  # type: ignore[misc]
    rows = torch.randn(16, VOCAB)
    print(f"  greedy_choices, 16 rows: {median_ms(lambda: greedy_choices(rows), 0.3):.3f} ms")
    print(f"  top_k_log_probs, 16 rows, k = 8: {median_ms(lambda: top_k_log_probs(rows, 8), 0.3):.3f} ms")


def main() -> None:
    """Prints the figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--only", nargs="*", default=["linears", "quantized", "attention", "small", "sampling"])
    arguments = parser.parse_args()
    torch.manual_seed(0)
    torch.set_num_threads(arguments.threads)
    set_num_threads(arguments.threads)
    print(f"instructions {get_isa()}, {arguments.threads} threads")
    if "linears" in arguments.only:
        for dtype in (torch.bfloat16, torch.float32):
            time_linears(dtype)
    if "quantized" in arguments.only:
        time_quantized_linears()
    if "attention" in arguments.only:
        time_attention(torch.bfloat16)
    if "small" in arguments.only:
        time_small_ops()
    if "sampling" in arguments.only:
        time_sampling()


if __name__ == "__main__":
    main()

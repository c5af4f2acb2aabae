"""Times of a decoder's step: from token ids to greedy choices in one native call, and in a call for every layer, as where weights come.

    python -m benchmarks.steps MODEL_FOLDER [--dtype bfloat16] [--threads 2] [--context-len 128 2048 8192]

Both ways and all numbers of rows take turns, so that what else the machine does falls on all; ratios are of times of one turn. The limit
is the time to read the weights once at the bandwidth that was measured before and after a turn.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from rich.progress import track

from specgrove.kernels.bandwidth import ReadBandwidth
from specgrove.kernels.rows import PassRows
from specgrove.kernels.sampling import ChoiceParams, RowChoice
from specgrove.kernels.threads import get_isa, set_num_threads
from specgrove.models.decoder.family import read_spec
from specgrove.program.decoder import DTYPES
from specgrove.program.loading import load_decoder
from specgrove.program.stores import MemoryWeights
from specgrove.runtime.model_runner import ModelRunner
from specgrove.runtime.pass_builder import PassBuilder, TreeRows

NUM_ROWS = (1, 8, 16, 32, 64)
CHUNK_LEN = 256
GREEDY = RowChoice(ChoiceParams(), 0)
NUM_TURNS, STEPS_PER_TURN = 30, 3


@dataclass(frozen=True)
class Turn:
    """Medians of one turn, by number of rows."""

    by_layer_ms: list[float]
    one_call_ms: list[float]
    limit_ms: float


class CalledByLayer(MemoryWeights):
    """In memory, but it has to be told of every layer before it runs."""

    is_streamed = True


def fill(runner: ModelRunner, num_tokens: int) -> None:
    """The first slots. Of slots that were never written all pages are one page of zeros, which is always in a cache."""
    for start in range(0, num_tokens, CHUNK_LEN):
        builder, chunk = PassBuilder(), range(start, min(start + CHUNK_LEN, num_tokens))
        builder.add(range(chunk.stop), [0] * len(chunk))
        runner.forward(builder.build())


def chain_batch(context_len: int, num_rows: int) -> PassRows:
    """A chain of tree nodes after a context, each asked for its greedy choice."""
    builder, parents = PassBuilder(), range(-1, num_rows - 1)
    slots = range(context_len, context_len + num_rows)
    builder.add(range(context_len), tree=TreeRows([0] * num_rows, parents, slots), choices=[GREEDY] * num_rows)
    return builder.build()


def weight_bytes(runner: ModelRunner) -> int:
    """What a step reads: linears and head."""
    return sum(linear.nbytes for linear in runner.decoder.program.linears())


def turn_ms(runner: ModelRunner, batch: PassRows) -> list[float]:
    """Times of some steps in a row, after one that isn't counted."""
    times_ms = []
    for _ in range(STEPS_PER_TURN + 1):
        started_s = time.perf_counter()
        runner.forward(batch)
        times_ms.append((time.perf_counter() - started_s) * 1e3)
    return times_ms[1:]


def main() -> None:
    """Prints a line per length of context and number of rows."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--dtype", choices=DTYPES, default="bfloat16")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument(
        "--context-len", type=int, nargs="+", default=[128], help="tokens before the rows; cut to what the model takes"
    )
    args = parser.parse_args()
    set_num_threads(args.threads)
    torch.set_num_threads(1)
    longest = read_spec(args.model).max_position_embeddings - max(NUM_ROWS)
    context_lens = sorted({min(context_len, longest) for context_len in args.context_len})
    num_slots = context_lens[-1] + max(NUM_ROWS)
    runners = [
        ModelRunner(load_decoder(args.model, DTYPES[args.dtype], store=store), num_slots)
        for store in (CalledByLayer(), MemoryWeights())
    ]
    for runner in runners:
        fill(runner, context_lens[-1])
    bandwidth = ReadBandwidth(args.threads)
    num_bytes = weight_bytes(runners[0])
    print(f"{args.dtype}, {args.threads} threads, instructions {get_isa()}, {num_bytes / 1e6:.0f} MB of weights")
    for context_len in context_lens:
        print(f"{context_len} tokens of context")
        turns = timed_turns(runners, context_len, bandwidth, num_bytes)
        for index, num_rows in enumerate(NUM_ROWS):
            print(f"  {num_rows:3d} rows: {summary(turns, index)}")


def timed_turns(runners: list[ModelRunner], context_len: int, bandwidth: ReadBandwidth, num_bytes: int) -> list[Turn]:
    """Both ways, all numbers of rows, again and again."""
    batches = [chain_batch(context_len, num_rows) for num_rows in NUM_ROWS]
    turns = []
    for _ in track(range(NUM_TURNS), "Turns", transient=True):
        gb_per_s = bandwidth.measure()
        by_layer_ms, one_call_ms = (
            [statistics.median(turn_ms(runner, batch)) for batch in batches] for runner in runners
        )
        turns.append(Turn(by_layer_ms, one_call_ms, num_bytes / 1e6 / ((gb_per_s + bandwidth.measure()) / 2)))
    return turns


def summary(turns: list[Turn], index: int) -> str:
    """Medians over the turns of one number of rows."""

    def median(value: Callable[[Turn], float]) -> float:
        return statistics.median(map(value, turns))

    return (
        f"by layer {median(lambda turn: turn.by_layer_ms[index]):6.2f} ms, "
        f"in one call {median(lambda turn: turn.one_call_ms[index]):6.2f} ms, "
        f"{median(lambda turn: turn.one_call_ms[index] / turn.one_call_ms[0]):.2f} x one row, "
        f"{median(lambda turn: turn.one_call_ms[index] / turn.limit_ms):.2f} x the limit"
    )


if __name__ == "__main__":
    main()

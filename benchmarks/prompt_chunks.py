"""Times of reading a prompt, by the rows of a forward pass, beside transformers: from token ids to the first choice.

    python -m benchmarks.prompt_chunks MODEL_FOLDER [--precisions bfloat16 int8 int4] [--prompt-len 512 2048] [--chunk-len 64 128 256 512]

All contestants take turns, so that what else the machine does falls on all; a figure is the median of its turns. Only the last chunk is
asked for something: the greedy choice after the prompt. transformers reads the whole prompt at once, in bfloat16, with one row of logits.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
from rich.progress import track

from benchmarks.steps import GREEDY
from specgrove.kernels.threads import get_isa, set_num_threads
from specgrove.machine.folders import default_cache_dir
from specgrove.models.folders.quantized_cache import ensure_quantized
from specgrove.program.loading import load_decoder
from specgrove.runtime.model_runner import ModelRunner
from specgrove.runtime.pass_builder import PassBuilder, TreeRows


def read_prompt(runner: ModelRunner, token_ids: list[int], chunk_len: int) -> None:
    """As the verifier does: the last token is the root of a tree, which is asked for its choice in the last chunk's pass."""
    context = token_ids[:-1]
    slots = list(range(len(token_ids)))
    for start in range(0, len(context), chunk_len):
        stop = min(start + chunk_len, len(context))
        builder, is_last = PassBuilder(), stop == len(context)
        tree = TreeRows([token_ids[-1]], [-1], [slots[-1]]) if is_last else None
        builder.add(slots[:stop], context[start:stop], tree, choices=[GREEDY] if is_last else None)
        runner.start(builder.build())
        runner.finish()


def transformers_reader(folder: Path) -> Callable[[list[int]], None]:
    """Reads a prompt into a new cache."""
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16).eval()

    def read(token_ids: list[int]) -> None:
        with torch.inference_mode():
            model(torch.tensor([token_ids]), use_cache=True, logits_to_keep=1).logits.argmax()

    return read


def main() -> None:
    """Prints a line per contestant and length of prompt."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--precisions", nargs="+", default=["bfloat16", "int8", "int4"])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--prompt-len", type=int, nargs="+", default=[512, 2048])
    parser.add_argument("--chunk-len", type=int, nargs="+", default=[64, 128, 256, 512])
    parser.add_argument("--rounds", type=int, default=9)
    args = parser.parse_args()
    set_num_threads(args.threads)
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    read_by_transformers = transformers_reader(args.model)
    contestants: dict[str, Callable[[list[int]], None]] = {"transformers bfloat16": read_by_transformers}
    for precision in args.precisions:
        quantization = "none" if precision == "bfloat16" else precision
        folder = ensure_quantized(args.model, quantization, default_cache_dir(), print)
        runner = ModelRunner(load_decoder(folder, torch.bfloat16), max(args.prompt_len))
        for chunk_len in args.chunk_len:
            contestants[f"{precision}, {chunk_len} rows a pass"] = lambda token_ids, runner=runner, rows=chunk_len: (  # type: ignore[misc]
                read_prompt(runner, token_ids, rows)
            )
    print(f"{args.threads} threads, instructions {get_isa()}")
    for prompt_len in args.prompt_len:
        times_ms: dict[str, list[float]] = {name: [] for name in contestants}
        for _ in track(range(args.rounds + 1), "Rounds", transient=True):  # the first warms up
            token_ids = torch.randint(1000, (prompt_len,)).tolist()
            for name, read in contestants.items():
                started_s = time.perf_counter()
                read(token_ids)
                times_ms[name].append((time.perf_counter() - started_s) * 1e3)
        medians_ms = {name: statistics.median(each[1:]) for name, each in times_ms.items()}
        for name, each in medians_ms.items():
            ratio = each / medians_ms["transformers bfloat16"]
            print(f"  {prompt_len} tokens, {name:26s}: {each:7.0f} ms, {ratio:.2f} x transformers")


if __name__ == "__main__":
    main()

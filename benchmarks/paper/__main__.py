"""SpecInfer's tables 1, 2 and 3 with our models: ``make paper-tables``.

    python -m benchmarks.paper --prompts 100 --llm MODEL --ssm MODEL --prompts-dir FOLDER --out benchmarks/results/paper-tables.json

Answers the first prompts of each set greedily and sampled, grows the paper's trees below every place of each answer, and records both
models' distributions there; then computes from the recordings what each rule accepts. Killed, it goes on where it was: recordings stay in
``--recordings``. Loads both models in this process; nothing is served, and times don't matter.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from benchmarks.host import conditions
from benchmarks.paper.models import Pair, load_pair
from benchmarks.paper.recordings import MIN_NUM_KEPT, Recording, Settings, record
from benchmarks.paper.report import print_tables, write_chart, write_json
from benchmarks.paper.tables import Cell, mean_rest, success_rates, tokens_per_step
from benchmarks.paper.trees import DEPTH, NUM_NODES
from benchmarks.prompts import SHARED_PROMPTS
from specgrove.config import DEFAULT_LLM
from specgrove.files.prompt_files import PromptSet, read_prompt_set
from specgrove.machine.folders import default_cache_dir

SETS = ("alpaca", "chatbot", "chatgpt", "piqa", "webqa")
SAMPLINGS = ("greedy", "sampled")
PRECISIONS = ("float32", "bfloat16", "int8", "int4")


def read_sets(folder: Path, names: Sequence[str], num_prompts: int) -> list[PromptSet]:
    """Raises ``ValueError`` that names the sets that are missing, ``OSError`` where a file can't be read."""
    missing = [name for name in names if not (folder / f"{name}.json").is_file()]
    if missing:
        raise ValueError(
            f"{folder} has no {', '.join(f'{name}.json' for name in missing)}: the paper's tables are made of prompt sets that are not "
            "part of the source; name the folder that holds them with --prompts-dir, or the sets that are there with --sets "
            "(each a JSON list of texts)"
        )
    return [read_prompt_set(folder / f"{name}.json", num_prompts) for name in names]


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.paper", description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--prompts", type=_positive, default=10, help="of each set; the paper's figures take 100 and more")
    add("--prompts-dir", type=Path, default=SHARED_PROMPTS)
    add("--sets", nargs="+", default=list(SETS), metavar="SET", help="files of --prompts-dir, without .json")
    add("--llm", default=DEFAULT_LLM)
    add("--ssm", default="demo", help="with weights, as for `specgrove serve`")
    add("--precision", default="bfloat16", choices=PRECISIONS, help="of the LLM")
    add("--ssm-precision", default="bfloat16", choices=PRECISIONS)
    add("--max-tokens", type=_positive, default=64)
    add("--max-prompt-len", type=_positive, default=512, help="longer prompts are left out")
    add("--temperature", type=float, default=1.0, help="of the sampled outputs, target and draft")
    add("--draft-weight", type=float, default=1.5, help="of the draft's log-probabilities against the noise")
    add("--kept-tokens", type=_positive, default=256, help="recorded of each distribution; the rest is one number")
    add("--trees-at-once", type=_positive, default=8, help="more need more memory")
    add("--recordings", type=Path, default=Path("build/paper-recordings"))
    add("--out", type=Path, default=Path("benchmarks/results/paper-tables.json"), help="and a chart beside it")
    add("--cache-dir", type=Path, default=default_cache_dir())
    found = parser.parse_args(arguments)
    if found.temperature <= 0:
        parser.error("--temperature must be above 0: greedy outputs are made besides the sampled ones")
    if found.kept_tokens < MIN_NUM_KEPT:
        parser.error(f"--kept-tokens must be {MIN_NUM_KEPT} at least: drawn tokens are among them")
    return found


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError("must be 1 or more")
    return number


def record_all(
    pair: Pair,
    sets: Sequence[PromptSet],
    settings: Settings,
    folder: Path,
    arguments: argparse.Namespace,
    console: Console,
) -> dict[tuple[str, str], list[Recording]]:
    """By prompt set and sampling. What is in ``folder`` is read, what isn't there is made."""  # fmt: skip
    found: dict[tuple[str, str], list[Recording]] = {}
    num_all = num_left = sum(len(prompt_set.prompts) for prompt_set in sets) * len(SAMPLINGS)
    num_made, started_s = 0, time.monotonic()
    for prompt_set in sets:
        for index, prompt in enumerate(prompt_set.prompts):
            prompt_ids = pair.prompt_ids(prompt)
            for sampling in SAMPLINGS:
                num_left -= 1
                if len(prompt_ids) > arguments.max_prompt_len:
                    continue
                path = folder / f"{prompt_set.name}-{index}-{sampling}.npz"
                if not path.exists():
                    made = record(
                        pair, prompt_ids, 1000 + index, settings, arguments.trees_at_once, is_sampled=sampling == "sampled"
                    )  # fmt: skip
                    made.write(path)
                    num_made += 1
                    left_s = num_left * (time.monotonic() - started_s) / num_made
                    console.print(
                        f"{num_all - num_left} of {num_all}: {path.stem}, {len(made.output_ids)} tokens; "
                        f"{left_s / 60:.0f} min left",
                        markup=False,
                    )
                found.setdefault((prompt_set.name, sampling), []).append(Recording.read(path))
    return found


def main() -> int:
    """0, or 2 with what is wrong."""
    arguments = parse_arguments()
    console = Console(width=150 if not sys.stdout.isatty() else None, soft_wrap=True)
    precisions = (arguments.precision, arguments.ssm_precision)
    settings = Settings(arguments.max_tokens, arguments.temperature, arguments.draft_weight, arguments.kept_tokens)
    try:
        sets = read_sets(arguments.prompts_dir, arguments.sets, arguments.prompts)
        pair = load_pair(
            arguments.llm, arguments.ssm, precisions, arguments.max_prompt_len + arguments.max_tokens + DEPTH,
            arguments.trees_at_once * NUM_NODES, arguments.cache_dir, console.print,
        )  # fmt: skip
    except (ValueError, OSError) as error:
        console.print(str(error), markup=False)
        return 2
    folder = arguments.recordings / settings.folder_name(pair, precisions)
    folder.mkdir(parents=True, exist_ok=True)
    recordings = record_all(pair, sets, settings, folder, arguments, console)
    tables: dict[str, list[Cell]] = {"success_rates": [], "tokens_per_step": []}
    for (prompt_set, sampling), outputs in recordings.items():
        console.print(f"computing {prompt_set}, {sampling}")
        tables["success_rates"] += success_rates(prompt_set, sampling, outputs)
        tables["tokens_per_step"] += tokens_per_step(prompt_set, sampling, outputs)
    for cells in tables.values():
        cells.sort(key=lambda cell: (cell.sampling, cell.rule))
    rest = mean_rest(
        [output for (_, sampling), outputs in recordings.items() if sampling == "sampled" for output in outputs]
    )
    facts = conditions() | {
        "models": f"{pair.names[0]} in {precisions[0]}, SSM {pair.names[1]} in {precisions[1]}",
        "outputs": f"{arguments.prompts} prompts of each set, up to {arguments.max_tokens} tokens",
        "sampled": f"temperature {settings.temperature}, draft weighs {settings.draft_weight} against the noise",
        "unknown mass": f"{settings.num_kept} tokens kept: {rest[0]:.3f} of the target and {rest[1]:.3f} of the draft is the rest",
    }
    print_tables(tables, console)
    console.print(", ".join(facts.values()), markup=False)
    write_json(tables, facts, arguments.out)
    write_chart(tables, facts, arguments.out.with_suffix(".png"), console.print)
    return 0


if __name__ == "__main__":
    sys.exit(main())

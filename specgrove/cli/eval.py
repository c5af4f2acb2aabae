"""``specgrove eval``: prompt files answered one after the other; latency per token and verified tokens per step of each."""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Sequence

import rich.console
import rich.table

from specgrove.cli.connecting import connected
from specgrove.cli.generate import choice_params, speculation_options
from specgrove.cli.measured_facts import measured_facts
from specgrove.cli.progress import showing
from specgrove.cli.prompt_input import as_prompts, tell_left_out
from specgrove.cli.rendering import make_console, plain_table, print_json, print_note
from specgrove.cli.set_chart import check_can_draw, draw
from specgrove.client import Client
from specgrove.client.output import ModelInfo
from specgrove.files.prompt_files import PromptSet, read_prompt_set
from specgrove.measuring.fitting import Fitting, fitting_prompts
from specgrove.measuring.prompt_sets import Decoded, SetResult, measure_set

_SEED = 1


def run(arguments: argparse.Namespace) -> int:
    """Exit code 0 when all prompts were answered."""
    sets = _named([read_prompt_set(path, arguments.num_prompts) for path in arguments.prompts])
    if arguments.chart is not None:
        check_can_draw(arguments.chart)
    console, errors = make_console(), make_console(stderr=True, quiet=arguments.quiet)
    params = choice_params(arguments)
    params["speculation"] = speculation_options(arguments)
    if params["seed"] is None:
        params["seed"] = _SEED
    with connected(arguments, needs_chat=not arguments.raw) as client:
        info = client.model_info()
        fitting = [_fitting(client, prompts, arguments, info.max_model_len, errors) for prompts in sets]
        with showing(errors, "answering the prompts") as show:
            results = [
                measure_set(
                    client,
                    prompts.name,
                    those,
                    params,
                    arguments.at_once,
                    show,
                    with_incremental=arguments.incremental,
                )
                for prompts, those in zip(sets, fitting, strict=True)
            ]
    if arguments.json:
        print_json(_as_json(info, arguments, results))
    else:
        console.print(_table(results))
        print_note(console, f"{info.model} ({info.dtype}), {arguments.at_once} at once; quartiles over requests")
    if arguments.chart is not None:
        draw(results, f"{info.model} ({info.dtype})", arguments.chart)
        print_note(errors, f"chart in {arguments.chart}")
    return 0


def _fitting(
    client: Client, prompts: PromptSet, arguments: argparse.Namespace, max_model_len: int, errors: rich.console.Console
) -> Fitting:
    found = fitting_prompts(
        client, as_prompts(prompts.prompts, is_raw=arguments.raw), arguments.max_tokens, max_model_len
    )
    tell_left_out(found, prompts.name, errors)
    return found


def _named(sets: Sequence[PromptSet]) -> list[PromptSet]:
    """Files of one name in different folders would be one line twice."""
    names = [prompts.name for prompts in sets]
    if doubled := sorted({name for name in names if names.count(name) > 1}):
        raise ValueError(f"--prompts: two files are named {doubled[0]}: give one another name")
    return list(sets)


def _table(results: Sequence[SetResult]) -> rich.table.Table:
    columns = ("set", "n", "tokens", "SSMs", "ms/token", "quartiles", "per step", "tokens/s")
    table = plain_table(columns, texts=("set", "SSMs"))
    for result in results:
        table.add_row(result.name, str(result.num_prompts), *_cells("with", result.decoded))
        if result.incremental is not None:
            table.add_row("", "", *_cells("without", result.incremental))
    return table


def _cells(way: str, decoded: Decoded) -> tuple[str, ...]:
    spread = decoded.ms_per_token
    return (
        str(decoded.num_tokens),
        way,
        f"{spread.median:.2f}",
        f"{spread.low:.2f}-{spread.high:.2f}",
        f"{decoded.tokens_per_step:.2f}",
        f"{decoded.tokens_per_s:.1f}",
    )


def _as_json(info: ModelInfo, arguments: argparse.Namespace, results: Sequence[SetResult]) -> dict[str, object]:
    return {
        **measured_facts(info, arguments),
        "sets": [dataclasses.asdict(result) for result in results],
    }

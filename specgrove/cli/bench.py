"""``specgrove bench``: speculation on and off, by SSM and with all of them, on one's own prompts, and which SSMs to use."""

from __future__ import annotations

import argparse
import dataclasses

import rich.console

from specgrove.cli.connecting import connected
from specgrove.cli.generate import choice_params
from specgrove.cli.measured_facts import measured_facts
from specgrove.cli.progress import showing
from specgrove.cli.prompt_input import as_prompts, tell_left_out
from specgrove.cli.rendering import make_console, plain_table, print_json, print_note
from specgrove.client.output import ModelInfo
from specgrove.files.prompt_files import read_prompt_set
from specgrove.measuring.fitting import fitting_prompts
from specgrove.measuring.quartiles import Quartiles
from specgrove.measuring.recommendation import MIN_NUM_PAIRS, Recommendation, WayResult, recommend
from specgrove.measuring.ways import measured, plan_told, planned_rounds, ways_with
from specgrove.settings.ssm_specs import asks_for_none

# Both decodings of a prompt need the same one.
_SEED = 1
_SHOWN_DEPTHS = 3


def run(arguments: argparse.Namespace) -> int:
    """Exit code 0; 1 when an output changed with speculation, which must not be."""
    texts = [text for path in arguments.prompts for text in read_prompt_set(path, arguments.num_prompts).prompts]
    prompts = as_prompts(dict.fromkeys(texts), is_raw=arguments.raw)
    if asks_for_none(arguments.ssm or ()):
        raise ValueError("--ssm none: there is nothing to compare plain decoding with")
    if len(prompts) < arguments.at_once:
        raise ValueError(f"--at-once {arguments.at_once}: there are only {len(prompts)} different prompts")
    console, errors = make_console(), make_console(stderr=True, quiet=arguments.quiet)
    params = choice_params(arguments)
    if params["seed"] is None:
        params["seed"] = _SEED
    with connected(arguments, needs_chat=not arguments.raw) as client:
        info = client.model_info()
        ssms = arguments.ssm if arguments.ssm is not None and arguments.address is not None else info.ssms
        if not ssms:
            raise ValueError("the suite has no SSM, so there is nothing to compare plain decoding with")
        fitting = fitting_prompts(client, prompts, arguments.max_tokens, info.max_model_len)
        tell_left_out(fitting, "the files", errors)
        rounds = planned_rounds(fitting.prompts, ways_with(ssms), arguments.at_once, arguments.rounds)
        print_note(errors, plan_told(rounds, len(fitting.prompts), MIN_NUM_PAIRS))
        with showing(errors, "measuring") as show:
            pairs = measured(client, rounds, params, show)
    results = [WayResult.of(way, found) for way, found in pairs.items()]
    advice = recommend(results, arguments.at_once)
    if arguments.json:
        print_json(_as_json(info, arguments, results, advice))
    else:
        _print(console, info, results, advice)
    return 0 if all(result.is_identical for result in results) else 1


def _print(console: rich.console.Console, info: ModelInfo, results: list[WayResult], advice: Recommendation) -> None:
    columns = ("SSMs", "tokens/s", "without", "speed-up", "per step", "accepted", "n")
    table = plain_table(columns, texts=("SSMs", "accepted"))
    for result in results:
        table.add_row(
            result.way.name,
            f"{result.tokens_per_s.median:.1f}",
            f"{result.incremental_tokens_per_s.median:.1f}",
            _quartiles(result.speed_up),
            f"{result.tokens_per_step:.2f}",
            " ".join(f"{share:.0%}" for share in result.acceptance[:_SHOWN_DEPTHS]) or "no drafts",
            str(result.num_pairs),
        )
    console.print(table)
    is_identical = all(result.is_identical for result in results)
    print_note(console, f"{info.model} ({info.dtype}); medians; identical output: {'yes' if is_identical else 'NO'}")
    console.print()
    console.print(advice.text, style="bold", markup=False)


def _quartiles(values: Quartiles) -> str:
    return f"{values.median:.2f} ({values.low:.2f}-{values.high:.2f})"


def _as_json(
    info: ModelInfo, arguments: argparse.Namespace, results: list[WayResult], advice: Recommendation
) -> dict[str, object]:
    return {
        **measured_facts(info, arguments),
        "ways": [_way_json(result) for result in results],
        "recommendation": dataclasses.asdict(advice),
    }


def _way_json(result: WayResult) -> dict[str, object]:
    fields = dataclasses.asdict(result)
    del fields["way"]
    return {"ssms": list(result.way.ssms), **fields}

"""``specgrove generate``: one prompt, streamed to stdout, or one line of JSON."""

from __future__ import annotations

import argparse
import dataclasses

from specgrove.cli.connecting import connected
from specgrove.cli.prompt_input import prompt_of
from specgrove.cli.rendering import make_console, print_json, print_legend, print_note, summary_line, usage_fields
from specgrove.cli.streaming import streamed
from specgrove.cli.terminal import without_echo
from specgrove.client.answers import completion_of
from specgrove.client.arguments import Prompt
from specgrove.client.output import Chunk, Completion
from specgrove.client.wire import GenerateParams
from specgrove.loop.request import SpeculationOptions
from specgrove.ranges import MAX_NUM_STOP_TEXTS
from specgrove.settings.ssm_specs import asks_for_none


def run(arguments: argparse.Namespace) -> int:
    """Exit code 0 when the output is complete, 130 when Ctrl-C stopped it."""
    if arguments.prompt_log_probs is not None and not arguments.json:
        raise ValueError("--prompt-log-probs needs --json: it prints numbers for programs")
    text = prompt_of(arguments.prompt)
    prompt: Prompt = text if arguments.raw else [("user", text)]
    console, errors = make_console(), make_console(stderr=True)
    params = generate_params(arguments)
    params["num_prompt_log_probs"] = arguments.prompt_log_probs
    chunks: list[Chunk] = []
    try:
        with connected(arguments, needs_chat=not arguments.raw) as client, without_echo():
            chunks.extend(
                client.generate(prompt, **params) if arguments.json else streamed(client, console, prompt, params)
            )
    except KeyboardInterrupt:
        if not arguments.quiet:
            num_tokens = sum(len(chunk.tokens) for chunk in chunks)
            print_note(errors, f"stopped after {num_tokens} tokens" if num_tokens else "stopped before the first token")
        return 130
    completion = completion_of(chunks)
    if arguments.json:
        print_json(_as_json(completion))
    elif not arguments.quiet:
        print_note(errors, summary_line(completion.usage, completion.finish_reason))
        if completion.usage.num_drafted_nodes:
            print_legend(console, errors)
    return 0


def _as_json(completion: Completion) -> dict[str, object]:
    fields: dict[str, object] = {
        "output_text": completion.text,
        "output_tokens": list(completion.token_ids),
        "finish_reason": completion.finish_reason.value,
        "stop_reason": completion.stop_reason,
        "statistics": usage_fields(completion.usage),
    }
    if completion.prompt_tokens:
        fields["prompt_tokens"] = [dataclasses.asdict(token) for token in completion.prompt_tokens]
    return fields


def generate_params(arguments: argparse.Namespace) -> GenerateParams:
    """The parameters that the sampling options stand for."""
    if len(arguments.stop or ()) > MAX_NUM_STOP_TEXTS:
        raise ValueError(f"--stop: {len(arguments.stop)} texts; at most {MAX_NUM_STOP_TEXTS}")
    return choice_params(arguments) | GenerateParams(
        repetition_penalty=arguments.repetition_penalty,
        presence_penalty=arguments.presence_penalty,
        frequency_penalty=arguments.frequency_penalty,
        stop=tuple(arguments.stop or ()),
        json_object=arguments.json_object,
        json_schema=arguments.json_schema,
        regex=arguments.regex,
        choice=arguments.choice,
        grammar=arguments.grammar,
        speculation=speculation_options(arguments, is_off=arguments.no_speculation),
    )


def choice_params(arguments: argparse.Namespace) -> GenerateParams:
    """Those of them that all commands have."""
    return GenerateParams(
        temperature=arguments.temperature,
        top_k=arguments.top_k,
        top_p=arguments.top_p,
        min_p=arguments.min_p,
        recommended_sampling=arguments.recommended_sampling,
        seed=arguments.seed,
        max_tokens=arguments.max_tokens,
        ignore_eos=arguments.ignore_eos,
    )


def speculation_options(arguments: argparse.Namespace, *, is_off: bool = False) -> SpeculationOptions:
    """With a running suite, ``--ssm`` picks among the SSMs it has, or none; a suite started here has no others."""
    ssms = tuple(arguments.ssm or ()) if arguments.address is not None else ()
    is_without = asks_for_none(ssms)
    return SpeculationOptions(disabled=is_off or is_without, ssms=() if is_without else ssms)

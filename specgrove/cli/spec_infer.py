"""``specgrove spec-infer`` and ``incr-decoding``: FlexFlow Serve's programs, by the Python API (``specgrove.serve``)."""

from __future__ import annotations

import argparse
import json
import logging
import re
import time
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import specgrove.serve as sg
from specgrove.cli.flexflow_arguments import INCREMENTAL
from specgrove.cli.rendering import make_console, print_note
from specgrove.client.output import tokens_per_step
from specgrove.files.prompt_files import read_prompt_set
from specgrove.machine.gpus import may_have_gpu
from specgrove.serve.output_file import as_json

_OF_GPUS = (
    "ll_gpu", "ll_fsize", "tensor_parallelism_degree", "pipeline_parallelism_degree", "data_parallelism_degree",
)  # fmt: skip
# What the Python API calls settings, as they are typed here.
_FLAGS = {
    "max_seq_length": "-max-sequence-length",
    "max_requests_per_batch": "-max-requests-per-batch",
    "max_tokens_per_batch": "-max-tokens-per-batch",
    "tensor_parallelism_degree": "-tensor-parallelism-degree",
    "pipeline_parallelism_degree": "-pipeline-parallelism-degree",
    "llm_replicas": "-data-parallelism-degree",
    "kv_slots": "-num-kv-cache-slots",
    "memory_per_gpu": "-ll:fsize",
    "offload_reserve_bytes": "-offload-reserve-space-size",
}
_NAMES = re.compile(rf"\b({'|'.join(_FLAGS)})\b")


def run(arguments: argparse.Namespace) -> int:
    """Exit code 0 when every prompt has its output, 1 when one has not."""
    prompts = read_prompt_set(arguments.prompt).prompts
    _check(arguments)
    errors = make_console(stderr=True, quiet=arguments.quiet)
    if arguments.verbose:
        logging.basicConfig(level=logging.INFO, format="%(message)s")
    for note in _notes(arguments):
        print_note(errors, note)
    requests = [
        sg.Request(prompt, max_length=arguments.max_length, max_new_tokens=arguments.max_output_length)
        for prompt in prompts
    ]
    try:
        llm = _compiled(arguments)
    except sg.ConfigurationError as error:
        raise ValueError(_NAMES.sub(lambda found: _FLAGS[found[0]], str(error))) from error
    is_unseen = not errors.is_terminal  # there the Python API shows how it gets on
    if is_unseen:
        print_note(errors, "starting the services ...")
    with llm, warnings.catch_warnings():
        if is_unseen:
            print_note(errors, f"answering {len(prompts)} prompts ...")
        warnings.simplefilter("ignore")  # what failed is told below
        started_s = time.perf_counter()
        results = llm.generate(requests, show_progress=False if arguments.quiet else None)
        elapsed_s = time.perf_counter() - started_s
    is_written = _write(arguments.output_file, requests, results)
    print_note(errors, _summary(results, elapsed_s))
    return max(_failures_told(results), 0 if is_written else 1)


def _compiled(arguments: argparse.Namespace) -> sg.LLM:
    """Checked, and all models fetched and converted. Raises ``ConfigurationError``."""
    sg.init(**_init_settings(arguments))
    llm = sg.LLM(
        arguments.llm_model,
        data_type=sg.DataType.DT_FLOAT if arguments.use_full_precision else None,
        cache_path=arguments.cache_folder or "",
    )
    llm.compile(
        _generation_config(arguments),
        ssms=[_ssm(name, arguments.expansion_degree) for name in arguments.ssm_model],
        max_requests_per_batch=arguments.max_requests_per_batch,
        max_seq_length=arguments.max_sequence_length,
        max_tokens_per_batch=arguments.max_tokens_per_batch,
    )
    return llm


def _check(arguments: argparse.Namespace) -> None:
    """What the values alone tell. Raises ``ValueError``."""
    is_incremental = arguments.command == INCREMENTAL
    if is_incremental and arguments.ssm_model:
        raise ValueError(f"-ssm-model: {INCREMENTAL} decodes without SSMs; `specgrove spec-infer` decodes with them")
    if not is_incremental and not arguments.ssm_model:
        raise ValueError(f"-ssm-model is missing: name a small model, or lookup; `specgrove {INCREMENTAL}` needs none")
    target: Path | None = arguments.output_file
    if target is not None and not target.absolute().parent.is_dir():
        raise ValueError(f"-output-file: there is no folder {target.absolute().parent}")
    if target is not None and target.is_dir():
        raise ValueError(f"-output-file: {target} is a folder")
    if target is not None and target.exists() and target.samefile(arguments.prompt):
        raise ValueError("-output-file is the file of the prompts: give another")
    if target is not None and (target.is_file() or not target.exists()):  # who reads a pipe would see it end
        target.open("a").close()  # answers may take hours: that it can't be written is told before
    for name in ("temperature", "topp", "topk", "seed"):
        if getattr(arguments, name) is not None and not arguments.do_sample:
            raise ValueError(f"-{name} needs -do-sample: without it the most probable token is taken")


def _notes(arguments: argparse.Namespace) -> list[str]:
    """What of the flags has no effect here."""
    notes = []
    if arguments.ignored:
        notes.append(f"ignored, since they mean nothing here: {', '.join(arguments.ignored)}")
    if arguments.ll_gpu and not may_have_gpu():
        given = [f"-{name.replace('ll_', 'll:').replace('_', '-')}" for name in _OF_GPUS if getattr(arguments, name)]
        notes.append(f"no GPU is here: the models run on the CPU, without {', '.join(given)}")
    return notes


def _init_settings(arguments: argparse.Namespace) -> dict[str, Any]:
    """As ``sg.init`` knows them; ``None`` is what was not given."""
    return {
        "num_gpus": arguments.ll_gpu,
        "num_cpus": arguments.ll_cpu,
        "memory_per_gpu": arguments.ll_fsize,
        "tensor_parallelism_degree": arguments.tensor_parallelism_degree,
        "pipeline_parallelism_degree": arguments.pipeline_parallelism_degree,
        "data_parallelism_degree": arguments.data_parallelism_degree,
        "offload": arguments.offload or None,
        "offload_reserve_space_size": arguments.offload_reserve_space_size,
        "use_4bit_quantization": arguments.int4 or None,
        "use_8bit_quantization": arguments.int8 or None,
        "kv_slots": arguments.num_kv_cache_slots,
    }


def _generation_config(arguments: argparse.Namespace) -> sg.GenerationConfig:
    given = {name: getattr(arguments, name) for name in ("temperature", "topp", "topk", "seed")}
    chosen = {name: value for name, value in given.items() if value is not None}
    return sg.GenerationConfig(do_sample=arguments.do_sample, ignore_eos=arguments.ignore_eos, **chosen)


def _ssm(name: str, expansion_degree: int | None) -> sg.SSM:
    if expansion_degree is None or name == "lookup":
        return sg.SSM(name)
    if expansion_degree == -1:
        return sg.SSM(name, mode="beam", width=1)
    return sg.SSM(name, expansion=(1, 1, expansion_degree))


def _write(path: Path | None, requests: Sequence[sg.Request], results: Sequence[sg.GenerationResult]) -> bool:
    """To the file, or as text where there is none. What the file can't take goes to standard output, and False is returned."""
    pairs = list(zip(requests, results, strict=True))
    if path is None:
        for number, (request, result) in enumerate(pairs):
            print(f"[{number}] {request.prompt}\n{result.output_text}\n")
        return True
    found = json.dumps([as_json(request, result) for request, result in pairs], ensure_ascii=False, indent=1)
    try:
        path.write_text(found + "\n", encoding="utf-8")
    except OSError as error:
        told = f"-output-file: {path}: {error.strerror or error}; what it was to hold is on standard output"
        make_console(stderr=True).print(told, markup=False)
        print(found)
        return False
    return True


def _failures_told(results: Sequence[sg.GenerationResult]) -> int:
    """The exit code."""
    failed = [(number, result.error) for number, result in enumerate(results) if result.error is not None]
    if not failed:
        return 0
    number, error = failed[0]
    told = f"{len(failed)} of {len(results)} prompts failed, the first, number {number}, with: {error}"
    make_console(stderr=True).print(told, markup=False)
    return 1


def _summary(results: Sequence[sg.GenerationResult], elapsed_s: float) -> str:
    usages = [result.statistics for result in results if result.statistics is not None]
    num_tokens = sum(usage.num_output_tokens for usage in usages)
    rate = num_tokens / elapsed_s if elapsed_s > 0 else 0.0
    return (
        f"{len(results)} prompts, {num_tokens} tokens in {elapsed_s:.1f} s: {rate:.0f} tokens/s, "
        f"{tokens_per_step(usages):.2f} tokens per step of the LLM"
    )

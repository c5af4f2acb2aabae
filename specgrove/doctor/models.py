"""The models that a suite would be started with: files, tokenizer, whether the LLM fits into memory, whether SSMs can draft for it.

Models that are not on this machine are not fetched: that is said.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import huggingface_hub
from huggingface_hub import errors as hub_errors

from specgrove.config import DEFAULT_SSMS, MAX_NUM_KNOWN_ROWS
from specgrove.doctor.findings import Finding, error, ok, warning
from specgrove.models.ends import ends_of
from specgrove.models.gguf_model import weights_note
from specgrove.models.hub import DEMO_LLM, ModelNotFoundError, is_hub_id, path_of
from specgrove.models.inventory import describe
from specgrove.models.loading import read_spec
from specgrove.models.memory_plan import (
    MemoryRequest,
    available_memory_bytes,
    check_fits,
    gibibytes,
    plan_memory,
    slots_in,
)
from specgrove.models.model_files import is_gguf_file, name_of, quantized_bits
from specgrove.models.parallel_layout import ParallelLayout
from specgrove.runtime.devices import available_bytes, choose_device
from specgrove.settings import SuiteSettings, in_suite_flags
from specgrove.ssm_choice import chosen_ssms
from specgrove.ssm_specs import asks_for_none, parse_ssm
from specgrove.tokenizer import Tokenizer

_QUANTIZATIONS = {8: "int8", 4: "int4"}


def llm(settings: SuiteSettings) -> Iterator[Finding]:
    """All that is found of the LLM, files first."""
    model = settings["llm", "model"]
    folder, found = _on_this_machine("LLM", model, settings["llm", "cache-dir"])
    if folder is None:
        yield found
        return
    description = describe(folder)
    if description.problem is not None:
        yield error("LLM", f"{model} can't be served: {_one_line(description.problem)}", model=model)
        return
    facts = {"model": model, "folder": str(folder), "family": description.family, "num_bytes": description.num_bytes}
    yield ok(
        "LLM",
        f"{description.name}: {description.family}, {(description.num_parameters or 0) / 1e6:.0f}M parameters, "
        f"context {description.max_model_len} tokens, {description.quantization or description.dtype or ''}",
        **facts,
    )
    if (note := weights_note(folder, settings["llm", "dtype"])) is not None:
        yield ok("LLM", note)
    yield from _tokenizer(folder)
    yield _memory(folder, settings)


def ssms(settings: SuiteSettings) -> Iterator[Finding]:
    """Whether each can draft for the LLM."""
    asked = settings["ssm", "ssm"]
    if asks_for_none(asked or ()):
        yield ok("SSMs", "none: decoding is incremental")
        return
    cache_dir = settings["ssm", "cache-dir"]
    folder, _ = _on_this_machine("LLM", settings["llm", "model"], settings["llm", "cache-dir"])
    if folder is None:
        return  # nothing to compare with
    for text in asked or DEFAULT_SSMS:
        yield _ssm(text, folder, cache_dir, is_asked=asked is not None)


def _ssm(text: str, llm_folder: Path, cache_dir: Path, *, is_asked: bool) -> Finding:
    try:
        spec = parse_ssm(text)
    except ValueError as problem:
        return error("SSM", str(problem), ssm=text)
    if spec.model is not None:
        folder, found = _on_this_machine("SSM", spec.model, cache_dir)
        if folder is None:
            return found
    notes: list[str] = []
    try:
        chosen_ssms([text], llm_folder, cache_dir, notes.append)
    except (ValueError, OSError) as problem:
        told = _one_line(str(problem))
        if is_asked:
            return error("SSM", told, ssm=text)
        return warning("SSM", f"{told}; it is left out", ssm=text)
    return ok("SSM", f"{spec.name} can draft for {name_of(llm_folder)}", ssm=text, mode=spec.mode)


def _on_this_machine(area: str, model: str, cache_dir: Path) -> tuple[Path | None, Finding]:
    """The folder, or a finding that says why there is none."""
    there = ok(area, model)
    if model == DEMO_LLM:
        folder = cache_dir / DEMO_LLM
        if folder.is_dir():
            return folder, there
        return None, warning(
            area, f"{model} is made at the first start; `specgrove models download {model}` does it before", model=model
        )
    try:
        path = path_of(model)
    except ModelNotFoundError as problem:
        return None, error(area, str(problem), model=model)
    if path.is_dir():
        return path, there
    if is_gguf_file(path) and path.is_file():
        return None, ok(area, f"{path} is a GGUF file: `specgrove models info {path}` looks into it", model=model)
    if not is_hub_id(model):
        return None, error(area, f"{model} is not there: give a model folder, a .gguf file or a hub id", model=model)
    try:
        return Path(huggingface_hub.snapshot_download(model, local_files_only=True)), there
    except (hub_errors.LocalEntryNotFoundError, OSError, ValueError):
        text = f"{model} is not on this machine: it is fetched at the first start, or by `specgrove models download {model}`"
        return None, warning(area, text, model=model)


def _tokenizer(folder: Path) -> Iterator[Finding]:
    try:
        tokenizer = Tokenizer.from_folder(folder)
        ends = ends_of(folder, tokenizer, read_spec(folder).vocab_size)
    except (OSError, ValueError) as problem:
        yield error("tokenizer", _one_line(str(problem)))
        return
    if not ends.text:
        yield warning("tokenizer", "no end-of-sequence token is named: only stop texts and max_tokens end an output")
    if (defect := tokenizer.chat_template_defect) is not None:
        yield warning("tokenizer", f"conversations can't be served: {_one_line(defect)}")
    else:
        yield ok("tokenizer", f"{tokenizer.num_ids} token ids, with a chat template", num_ids=tokenizer.num_ids)


def _memory(folder: Path, settings: SuiteSettings) -> Finding:
    """As the LLM service decides it at its start."""
    spec = read_spec(folder)
    try:
        spec.longest_sequence(settings["llm", "max-model-len"])
        device = choose_device(settings["llm", "device"], 0)
        request = _memory_request(folder, settings)
        kv_bytes, rank_bytes = settings["llm", "kv-memory"], settings["llm", "memory-per-gpu"]
        if kv_bytes is not None or rank_bytes is not None:
            request = replace(request, num_slots=slots_in(spec, request, kv_bytes=kv_bytes, rank_bytes=rank_bytes))
        plans = plan_memory(spec, request)
        available = available_bytes(device) if device.type != "cpu" else available_memory_bytes()
        sharing = range(request.layout.num_ranks) if device.type == "cpu" else range(1)
        check_fits(spec, request, available, sharing)
    except ValueError as problem:
        return error("fits", in_suite_flags(_one_line(str(problem)), "llm"))
    needed = sum(plan.total_bytes for plan in plans)
    text = f"it takes {gibibytes(needed)} of {gibibytes(available)}: {'; '.join(map(str, plans))}"
    return ok("fits", text, needed_bytes=needed, available_bytes=available)


def _memory_request(folder: Path, settings: SuiteSettings) -> MemoryRequest:
    stages = settings["llm", "pipeline-parallel"]
    is_counted = len(stages) == 1
    layout = ParallelLayout(
        settings["llm", "tensor-parallel"], stages[0] if is_counted else len(stages), None if is_counted else stages
    )
    asked = settings["llm", "quantization"]
    chunk, tree_rows = settings["llm", "max-chunk-tokens"], settings["llm", "max-tree-rows"]
    return MemoryRequest(
        dtype=settings["llm", "dtype"],
        quantization=_QUANTIZATIONS.get(quantized_bits(folder) or 0) or (None if asked == "none" else asked),
        layout=layout,
        num_slots=settings["llm", "kv-slots"],
        max_num_rows=chunk + tree_rows,
        max_num_logit_rows=tree_rows + MAX_NUM_KNOWN_ROWS,
        # What offloading leaves is chosen at the start; here the least will do.
        max_weight_bytes=settings["llm", "max-weight-memory"] or (1 if settings["llm", "offload"] else None),
        max_len=settings["llm", "max-model-len"],
    )


def _one_line(text: str) -> str:
    return " ".join(text.split())

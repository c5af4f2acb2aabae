"""The models that a suite would be started with: files, tokenizer, whether the LLM fits into memory, whether SSMs can draft for it.

Models that are not on this machine are not fetched: that is said.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import huggingface_hub
from huggingface_hub import errors as hub_errors

from specgrove.doctor.findings import Finding, Level, error, ok, warning
from specgrove.models.decoder.ends import ends_of
from specgrove.models.decoder.family import read_spec
from specgrove.models.folders.gguf_model import weights_note
from specgrove.models.folders.hub import DEMO_LLM, ModelNotFoundError, is_hub_id, path_of
from specgrove.models.folders.inventory import describe
from specgrove.models.folders.model_files import is_gguf_file, name_of
from specgrove.models.planning.demand import ModelDemand
from specgrove.models.planning.fitting import Room, check_before_start, settled
from specgrove.models.planning.memory_plan import check_fits, gibibytes, plan_memory
from specgrove.runtime.devices import available_bytes, choose_device
from specgrove.settings import SuiteSettings, in_suite_flags
from specgrove.settings.ssm_specs import asks_for_none, parse_ssm
from specgrove.suite.ssm_choice import chosen_ssms, default_ssms
from specgrove.suite.start_checks import check_ssms
from specgrove.tokenizer import Tokenizer


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
    texts = asked or _defaults(settings, folder, cache_dir)
    findings = {text: _ssm(text, folder, cache_dir, is_asked=asked is not None) for text in texts}
    yield from findings.values()
    try:
        check_ssms(settings, [text for text, found in findings.items() if found.level is Level.OK], folder)
    except ValueError as problem:
        yield error("SSMs", _one_line(str(problem)))


def _defaults(settings: SuiteSettings, llm_folder: Path, cache_dir: Path) -> list[str]:
    """Of each group the one that a suite takes, or the one that it says is left out. What is wrong with the LLM's files each one tells."""
    groups = default_ssms(settings)
    try:
        chosen = chosen_ssms(None, llm_folder, cache_dir, lambda _: None, defaults=groups)
    except (ValueError, OSError):
        chosen = ()
    return [next((text for text in group if text in chosen), group[-1]) for group in groups]


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
    spec, demand = read_spec(folder), ModelDemand.of(lambda name: settings["llm", name])
    try:
        check_before_start(demand, folder, settings["llm", "cache-dir"])
        device = choose_device(demand.device, 0)
        on_gpu = device.type == "cuda"
        room = Room(available_bytes(device), range(1 if on_gpu else demand.layout.num_ranks), on_gpu=on_gpu)
        request = settled(spec, demand, folder, room)
        check_fits(spec, request, room.available_bytes, room.ranks)
    except (ValueError, OSError) as problem:
        return error("fits", in_suite_flags(_one_line(str(problem)), "llm"))
    plans = plan_memory(spec, request)
    needed = sum(plan.total_bytes for plan in plans)
    text = f"it takes {gibibytes(needed)} of {gibibytes(room.available_bytes)}: {'; '.join(map(str, plans))}"
    return ok("fits", text, needed_bytes=needed, available_bytes=room.available_bytes)


def _one_line(text: str) -> str:
    return " ".join(text.split())

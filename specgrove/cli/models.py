"""``specgrove models``: what models there are on this machine, what one is, fetching one, and converting foreign files."""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING

from specgrove.cli.progress import showing, waiting
from specgrove.cli.rendering import make_console, print_json
from specgrove.cli.suites import model_folder, settings_in
from specgrove.config import DEFAULT_LLM
from specgrove.machine.folders import typed_path
from specgrove.models.folders.made_folder import check_new

if TYPE_CHECKING:
    from specgrove.models.folders.inventory import ModelDescription

_HEADER = ("MODEL", "FAMILY", "PARAMETERS", "ON DISK", "SUPPORTED")
_RIGHT = ("PARAMETERS", "ON DISK")


def run(arguments: argparse.Namespace) -> int:
    """Exit code 0; for ``info`` 1 when the model can't be served."""
    actions = {"list": _list, "info": _info, "download": _download, "convert": _convert}
    return actions[arguments.action](arguments)


def _list(arguments: argparse.Namespace) -> int:
    from specgrove.models.folders.inventory import cached_models  # brings torch

    with waiting(make_console(stderr=True), "looking for models"):
        models = list(cached_models(arguments.cache_dir))
    if arguments.json:
        print_json([_as_json(model) for model in models])
        return 0
    rows = [_HEADER]
    for model in models:
        verdict = "yes" if model.problem is None else f"no: {_one_line(model.problem)}"
        size = (_count(model.num_parameters), _bytes(model.num_bytes))
        rows.append((_as_typed(model, arguments.cache_dir), model.family or "-", *size, verdict))
    if len(rows) == 1:
        make_console(stderr=True).print(
            f"no models yet in {arguments.cache_dir} or the hub's cache: `specgrove models download` fetches one"
        )
        return 0
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = (
            cell.rjust(width) if title in _RIGHT else cell.ljust(width)
            for cell, width, title in zip(row, widths, _HEADER, strict=True)
        )
        print("  ".join(cells).rstrip())
    return 0


def _as_typed(model: ModelDescription, cache_dir: Path) -> str:
    """What ``--llm`` takes for it: what lies in our cache has no id, except the demo model."""
    if not model.folder.is_relative_to(cache_dir) or model.folder == cache_dir / DEFAULT_LLM:
        return model.name
    home = Path.home()
    return f"~/{model.folder.relative_to(home)}" if model.folder.is_relative_to(home) else str(model.folder)


def _info(arguments: argparse.Namespace) -> int:
    from specgrove.models.folders.inventory import describe, find_model

    with showing(make_console(stderr=True), f"looking for {arguments.model}") as show:
        model = describe(find_model(arguments.model, arguments.cache_dir, show))
    if arguments.json:
        print_json(_as_json(model))
        return 0 if model.problem is None else 1
    heads = None if model.num_heads is None else f"{model.num_heads}, {model.num_kv_heads} of keys and values"
    rows = {
        "name": model.name,
        "folder": model.folder,
        "architecture": model.architecture,
        "layers": model.num_layers,
        "heads": heads,
        "parameters": _parameters(model),
        "context": None if model.max_model_len is None else f"{model.max_model_len} tokens",
        "dtype": _dtype(model),
        "on disk": _bytes(model.num_bytes),
        "quantisation": model.quantization or "none",
        "supported": "yes" if model.problem is None else f"no: {_one_line(model.problem)}",
    }
    for name, value in rows.items():
        print(f"{name + ':':<14}{'-' if value is None else value}")
    return 0 if model.problem is None else 1


def _as_json(model: ModelDescription) -> dict[str, object]:
    return {**dataclasses.asdict(model), "folder": str(model.folder)}


def _download(arguments: argparse.Namespace) -> int:
    settings = settings_in(arguments.config)
    model = arguments.model or settings["llm", "model"]
    cache_dir = arguments.cache_dir or settings["llm", "cache-dir"]
    print(model_folder(model, make_console(stderr=True), cache_dir))
    return 0


def _convert(arguments: argparse.Namespace) -> int:
    target = typed_path(arguments.out)
    check_new(target)
    from specgrove.models.folders.conversion import convert_model  # brings torch

    with showing(make_console(stderr=True), f"converting {arguments.model}") as show:
        convert_model(typed_path(arguments.model), target, arguments.dtype, show)
    print(target)
    return 0


def _one_line(text: str) -> str:
    return " ".join(text.split())


def _parameters(model: ModelDescription) -> str:
    """A head of its own may make much of a small model, and papers don't count one that is the embedding again."""
    if not model.num_parameters:
        return "-"
    embedding = f"{_count(model.num_parameters)}, of these {_count(model.num_embedding_parameters)} in the embedding"
    if not model.num_head_parameters:
        return f"{embedding}, which is the head too"
    return f"{embedding} and {_count(model.num_head_parameters)} in the head"


def _dtype(model: ModelDescription) -> str | None:
    """Codes of quantised weights are packed in integers, which by themselves say little."""
    is_packed = model.quantization is not None and model.dtype in ("uint8", "int8", "int32")
    return f"{model.quantization}, packed in {model.dtype}" if is_packed else model.dtype


def _count(number: int | None) -> str:
    if number is None:
        return "-"
    return f"{number / 1e9:.2f}B" if number >= 1e9 else f"{number / 1e6:.1f}M"


def _bytes(number: int | None) -> str:
    if number is None:
        return "-"
    return f"{number / 1e9:.2f} GB" if number >= 1e9 else f"{number / 1e6:.1f} MB"

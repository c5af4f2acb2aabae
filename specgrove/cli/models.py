"""``specgrove models``: what models there are on this machine, what one is, fetching one, and converting foreign files."""

from __future__ import annotations

import argparse
import dataclasses
import json
from pathlib import Path

from specgrove.cli.rendering import make_console
from specgrove.cli.suites import model_folder, showing


def run(arguments: argparse.Namespace) -> int:
    """Exit code 0; for ``info`` 1 when the model can't be served."""
    actions = {"list": _list, "info": _info, "download": _download, "convert": _convert}
    return actions[arguments.action](arguments)


def _list(arguments: argparse.Namespace) -> int:
    from specgrove.models.inventory import cached_models  # brings torch

    rows = [("NAME", "FAMILY", "PARAMETERS", "ON DISK", "SUPPORTED")]
    for model in cached_models(arguments.cache_dir):
        verdict = "yes" if model.problem is None else f"no: {_one_line(model.problem)}"
        rows.append((model.name, model.family or "-", _count(model.num_parameters), _bytes(model.num_bytes), verdict))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
    return 0


def _info(arguments: argparse.Namespace) -> int:
    from specgrove.models.inventory import describe, find_model

    with showing(make_console(stderr=True), f"looking for {arguments.model}") as show:
        model = describe(find_model(arguments.model, arguments.cache_dir, show))
    if arguments.json:
        print(json.dumps({**dataclasses.asdict(model), "folder": str(model.folder)}))
        return 0 if model.problem is None else 1
    heads = None if model.num_heads is None else f"{model.num_heads}, {model.num_kv_heads} of keys and values"
    rows = {
        "name": model.name,
        "folder": model.folder,
        "architecture": model.architecture,
        "layers": model.num_layers,
        "heads": heads,
        "parameters": _count(model.num_parameters),
        "context": None if model.max_model_len is None else f"{model.max_model_len} tokens",
        "dtype": model.dtype,
        "on disk": _bytes(model.num_bytes),
        "quantisation": model.quantization or "none",
        "supported": "yes" if model.problem is None else f"no: {_one_line(model.problem)}",
    }
    for name, value in rows.items():
        print(f"{name + ':':<14}{'-' if value is None else value}")
    return 0 if model.problem is None else 1


def _download(arguments: argparse.Namespace) -> int:
    print(model_folder(arguments.model, make_console(stderr=True), arguments.cache_dir))
    return 0


def _convert(arguments: argparse.Namespace) -> int:
    from specgrove.models.conversion import convert_model

    target = Path(arguments.out).expanduser()
    with showing(make_console(stderr=True), f"converting {arguments.model}") as show:
        convert_model(Path(arguments.model).expanduser(), target, arguments.dtype, show)
    print(target)
    return 0


def _one_line(text: str) -> str:
    return " ".join(text.split())


def _count(number: int | None) -> str:
    if number is None:
        return "-"
    return f"{number / 1e9:.2f}B" if number >= 1e9 else f"{number / 1e6:.1f}M"


def _bytes(number: int | None) -> str:
    if number is None:
        return "-"
    return f"{number / 1e9:.2f} GB" if number >= 1e9 else f"{number / 1e6:.1f} MB"

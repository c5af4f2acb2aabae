"""``specgrove quantize``: writes a model folder with weights of 8 or 4 bits and says where it lies."""

from __future__ import annotations

import argparse
from pathlib import Path

from specgrove.cli.progress import showing
from specgrove.cli.rendering import make_console
from specgrove.cli.suites import model_folder


def run(arguments: argparse.Namespace) -> int:
    """Prints the new folder."""
    from specgrove.models.quantization import quantize_folder  # brings torch

    console, target = make_console(stderr=True), Path(arguments.out).expanduser()
    folder = model_folder(arguments.model, console, arguments.cache_dir)
    with showing(console, f"quantising {folder.name}") as show:
        quantize_folder(folder, target, arguments.bits, arguments.group_size, show)
    print(target)
    return 0

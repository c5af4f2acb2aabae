"""``specgrove quantize``: writes a model folder with weights of 8 or 4 bits and says where it lies."""

from __future__ import annotations

import argparse

from specgrove.cli.progress import showing
from specgrove.cli.rendering import make_console
from specgrove.cli.suites import model_folder
from specgrove.machine.folders import typed_path
from specgrove.models.folders.made_folder import check_new


def run(arguments: argparse.Namespace) -> int:
    """Prints the new folder."""
    console, target = make_console(stderr=True), typed_path(arguments.out)
    check_new(target)
    if arguments.bits == 8 and arguments.group_size is not None:
        raise ValueError("--group-size goes with --bits 4: 8 bits have one scale per output")
    folder = model_folder(arguments.model, console, arguments.cache_dir)
    from specgrove.models.weights.quantization import quantize_folder  # brings torch

    with showing(console, f"quantising {folder.name}") as show:
        quantize_folder(folder, target, arguments.bits, arguments.group_size, show)
    print(target)
    return 0

"""``specgrove models download``: fetches a model into the cache and says where it lies."""

from __future__ import annotations

import argparse

from specgrove.cli.rendering import make_console
from specgrove.cli.suites import model_folder


def run(arguments: argparse.Namespace) -> int:
    """Prints the model's folder."""
    print(model_folder(arguments.model, make_console(stderr=True)))
    return 0

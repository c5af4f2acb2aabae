"""What was measured, and where: the facts that stand with figures in JSON. Used by ``bench`` and ``eval``."""

from __future__ import annotations

import argparse

from specgrove.client.output import ModelInfo
from specgrove.machine.cpus import available_cpus
from specgrove.machine.host import processor_name


def measured_facts(info: ModelInfo, arguments: argparse.Namespace) -> dict[str, object]:
    """The machine is the client's: the suite may run on another."""
    return {
        "model": info.model,
        "dtype": info.dtype,
        "version": info.version,
        "max_tokens": arguments.max_tokens,
        "num_at_once": arguments.at_once,
        "client_machine": {"processor": processor_name(), "num_cpus": available_cpus()},
    }

"""``specgrove doctor``: what there is, what is wrong with it, and what would be right."""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Iterator

import rich.console
import rich.table
import rich.text

from specgrove.cli.connecting import check_connection_options, client_of
from specgrove.cli.progress import waiting
from specgrove.cli.rendering import make_console, print_json
from specgrove.cli.suites import given_settings
from specgrove.doctor.findings import Finding, Level
from specgrove.settings import SuiteSettings
from specgrove.version import version

_STYLES = {Level.OK: "green", Level.WARNING: "yellow", Level.ERROR: "bold red"}


def run(arguments: argparse.Namespace) -> int:
    """Exit code 0, or 1 where there is an error among the findings."""
    check_connection_options(arguments)
    findings = []
    with waiting(make_console(stderr=True, quiet=arguments.quiet or arguments.json), "looking") as status:
        for finding in _findings(arguments):
            status.update(f"looking: {finding.area}")
            findings.append(finding)
    has_error = any(finding.level is Level.ERROR for finding in findings)
    if arguments.json:
        print_json(
            {
                "version": version(),
                "is_well": not has_error,
                "findings": [dataclasses.asdict(finding) | {"level": finding.level.value} for finding in findings],
            }
        )
    else:
        shown = [finding for finding in findings if not arguments.quiet or finding.level is not Level.OK]
        _print(make_console(), shown)
    return 1 if has_error else 0


def _findings(arguments: argparse.Namespace) -> Iterator[Finding]:
    from specgrove.doctor import places

    if arguments.address is not None:
        with client_of(arguments) as client:
            yield from places.running_suite(client, arguments.address, version())
        return
    settings = given_settings(arguments)
    yield from _of_this_machine(settings, is_measured=not arguments.quick)
    yield places.addresses(settings)


def _of_this_machine(settings: SuiteSettings, *, is_measured: bool) -> Iterator[Finding]:
    from specgrove.doctor import machine, models  # brings torch

    yield machine.processor()
    yield from machine.threads(settings)
    yield from machine.kernels()
    yield machine.memory(is_measured=is_measured)
    yield from machine.gpus()
    yield from machine.versions()
    yield from machine.folders(settings["llm", "cache-dir"])
    yield from models.llm(settings)
    yield from models.ssms(settings)


def _print(console: rich.console.Console, findings: list[Finding]) -> None:
    if not console.is_terminal:
        for finding in findings:
            print(f"{finding.level.value:<7}  {finding.area:<16}  {finding.text}")
        return
    table = rich.table.Table.grid(padding=(0, 2))
    for finding in findings:
        table.add_row(
            rich.text.Text(finding.level.value, _STYLES[finding.level]), finding.area, rich.text.Text(finding.text)
        )
    console.print(table)

"""A suite for one command: started with what its options say, shown starting, and stopped."""

from __future__ import annotations

import argparse
import contextlib
import json
import time
from collections.abc import Iterator
from pathlib import Path

import rich.console

from specgrove.cli.progress import showing, waiting
from specgrove.cli.rendering import make_console
from specgrove.models.folders.gguf_model import weights_note
from specgrove.models.folders.hub import resolve_model
from specgrove.models.folders.quantized_cache import ensure_quantized
from specgrove.settings import SuiteSettings, in_suite_flags, settings_of
from specgrove.suite.processes import Suite, SuiteConfig, config_of, section_of
from specgrove.suite.ssm_choice import chosen_ssms, default_ssms
from specgrove.suite.start_checks import check_model, check_settings, check_ssms, crowding_of
from specgrove.suite.supervisor import LogLine
from specgrove.telemetry.logs import parsed


def given_settings(arguments: argparse.Namespace) -> SuiteSettings:
    """Those of the command line, over those of the file of ``--config``. Raises ``ValueError`` and ``OSError`` for the file."""
    return settings_of(arguments).over(settings_in(arguments.config))


def settings_in(config: Path | None) -> SuiteSettings:
    """Those of a file, if there is one. Raises ``ValueError`` and ``OSError``."""
    if config is None:
        return SuiteSettings()
    # Brings a library that most starts don't need.
    from specgrove.settings.config_file import read_config_file

    return read_config_file(config, is_for_suite=True)


@contextlib.contextmanager
def started_suite(
    settings: SuiteSettings,
    address: str | None,
    arguments: argparse.Namespace,
    *,
    is_for_others: bool = False,
    needs_chat: bool = False,
) -> Iterator[Suite]:
    """A suite with these settings, its router at ``address``. Its start is shown on stderr, as ``--quiet`` and ``--verbose`` say.

    One for others shows what the services print, and of its start what a terminal shows while it lasts.
    ``needs_chat``: a model that takes no conversations is refused.
    """
    errors = make_console(stderr=True, quiet=arguments.quiet)
    is_terse = is_for_others and not arguments.verbose
    console = make_console(stderr=True, quiet=arguments.quiet or (is_terse and not errors.is_terminal))
    shows_log = is_for_others or arguments.verbose
    config = _prepared(settings, address, console, errors, needs_chat=needs_chat, shows_log=shows_log)
    log_line = log_to(errors, settings["router", "log-format"]) if shows_log else None
    started_s = time.monotonic()
    with waiting(console, "starting the services") as status:

        def show_start(services: tuple[str, ...]) -> None:
            status.update(f"starting {', '.join(services)} ({time.monotonic() - started_s:.0f} s)")

        suite = Suite(config, log_line=log_line, progress=show_start)
        suite.start()
    try:
        if not is_terse:
            console.print(f"services ready after {time.monotonic() - started_s:.1f} s", style="dim")
        yield suite
    finally:
        suite.stop()


def _prepared(
    settings: SuiteSettings,
    address: str | None,
    console: rich.console.Console,
    errors: rich.console.Console,
    *,
    needs_chat: bool,
    shows_log: bool,
) -> SuiteConfig:
    """Everything but the start: checked, and models fetched, converted and quantised. What is not well goes to ``errors``."""

    def warn(text: str) -> None:
        errors.print(f"warning: {text}", markup=False)

    check_settings(settings, address)
    cache_dir = settings["llm", "cache-dir"]
    llm, dtype = settings["llm", "model"], settings["llm", "dtype"]
    llm_folder = model_folder(llm, console, cache_dir, "none")
    with showing(console, "looking for the SSMs") as show:
        check_model(settings, llm_folder, needs_chat=needs_chat)
        ssms = chosen_ssms(
            settings["ssm", "ssm"],
            llm_folder,
            settings["ssm", "cache-dir"],
            show,
            warn,
            defaults=default_ssms(settings),
        )
        check_ssms(settings, ssms, llm_folder)
        # May take minutes, so it comes when nothing else can be wrong.
        llm_folder = ensure_quantized(llm_folder, settings["llm", "quantization"], cache_dir, show)
    say_weights(llm, llm_folder, dtype, console)
    for ssm in ssms:
        say_ssm_weights(ssm, settings["ssm", "dtype"], console, settings["ssm", "cache-dir"])
    # One LLM service warns of it in its log; of several none knows of the others.
    if (crowding := crowding_of(settings)) is not None and (not shows_log or settings["", "llm-replicas"] > 1):
        warn(crowding)
    return config_of(settings, llm_folder, ssms, address)


def model_folder(llm: str, console: rich.console.Console, cache_dir: Path, quantization: str = "none") -> Path:
    """The folder of a model, fetched and quantised if need be."""
    with showing(console, f"looking for {llm}") as show:
        folder = resolve_model(llm, cache_dir=cache_dir, progress=show)
        return ensure_quantized(folder, quantization, cache_dir, show)


def say_weights(model: str, folder: Path, dtype: str, console: rich.console.Console) -> None:
    """In a line, what is made of a GGUF file's weights."""
    if (note := weights_note(folder, dtype)) is not None:
        console.print(f"{Path(model).name}: {note}", style="dim", markup=False, highlight=False, soft_wrap=True)


def say_ssm_weights(ssm: str, dtype: str, console: rich.console.Console, cache_dir: Path) -> None:
    """The same of an ``--ssm``, whose file is read and quantised here, so that it is seen and faults come early."""
    model, *options = ssm.split(",")
    if model.endswith(".gguf"):
        quantizations = [
            option.removeprefix("quantization=") for option in options if option.startswith("quantization=")
        ]
        say_weights(model, model_folder(model, console, cache_dir, *quantizations[:1]), dtype, console)


def log_to(console: rich.console.Console, log_format: str | None = None) -> LogLine:
    """Prints each line with its service's name, once."""

    def log_line(name: str, line: str) -> None:
        # The services' own announcement is for whoever starts one by hand; the suite says where the router listens.
        if line.startswith("listening on "):
            return
        line = in_suite_flags(line, section_of(name))
        log = parsed(line)
        if log is not None and log.service == name:
            console.out(line, highlight=False)
        elif log_format == "json":
            fields = json.loads(line) if log is not None and line.startswith("{") else {"message": line}
            console.out(json.dumps(fields | {"service": name}, ensure_ascii=False), highlight=False)
        else:
            console.out(f"{name}: {line}", highlight=False)

    return log_line

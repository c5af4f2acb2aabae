"""A suite for one command: started with what its options say, shown starting, and stopped."""

from __future__ import annotations

import argparse
import contextlib
import json
import re
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import rich.console
import rich.status

from specgrove.cli.rendering import make_console
from specgrove.config import DEFAULT_DTYPE, DEFAULT_LLM
from specgrove.cpus import too_few_for
from specgrove.folders import default_cache_dir
from specgrove.models.gguf_model import weights_note
from specgrove.models.hub import resolve_model
from specgrove.models.quantized_cache import ensure_quantized
from specgrove.serving.address import TlsFiles, check_server_tls
from specgrove.serving.api_keys import read_keys
from specgrove.serving.listening import check_can_listen
from specgrove.settings import DRAIN, given_arguments
from specgrove.ssm_choice import chosen_ssms
from specgrove.suite import Suite, SuiteConfig
from specgrove.supervisor import LogLine
from specgrove.telemetry import parsed

_NUMBERS = re.compile(r"\d+")
_SAME_WORK_INTERVAL_S = 10.0


@contextlib.contextmanager
def started_suite(arguments: argparse.Namespace, address: str | None) -> Iterator[Suite]:
    """A suite with the models of ``--llm``, ``--ssm`` and ``--dtype``. Its start is shown on stderr."""
    console = make_console(stderr=True, quiet=arguments.quiet)
    _check_addresses({"--grpc-address": address, "--http-address": arguments.http_address})
    _check_tls(arguments)
    _check_http(arguments)
    given = given_arguments(arguments)
    cache_dir = arguments.cache_dir or default_cache_dir()
    llm, dtype = arguments.llm or DEFAULT_LLM, arguments.dtype or DEFAULT_DTYPE
    llm_folder = model_folder(llm, console, cache_dir, arguments.quantization or "none")
    with showing(console, "looking for the SSMs") as show:
        ssms = chosen_ssms(arguments.ssm, llm_folder, cache_dir, show)
    say_weights(llm, llm_folder, dtype, console)
    for ssm in ssms:
        say_ssm_weights(ssm, dtype, console, cache_dir)
    num_replicas = arguments.llm_replicas or 1
    if arguments.device != "cuda" and (crowding := too_few_for(f"{num_replicas} LLM replicas", num_replicas)):
        console.print(f"warning: {crowding}", markup=False)
    config = SuiteConfig(
        llm_folder=llm_folder,
        ssms=ssms,
        dtype=dtype,
        address=address,
        num_llm_replicas=num_replicas,
        num_threads=arguments.threads,
        start_timeout_s=arguments.start_timeout_s,
        drain_timeout_s=DRAIN.default if arguments.drain_timeout_s is None else arguments.drain_timeout_s,
        llm_arguments=given["llm_service"],
        ssm_arguments=given["ssm_service"],
        router_arguments=given["router"],
    )
    started_s = time.monotonic()
    with waiting(console, "starting the services") as status:

        def show_start(services: tuple[str, ...]) -> None:
            status.update(f"starting {', '.join(services)} ({time.monotonic() - started_s:.0f} s)")

        suite = Suite(
            config, log_line=log_to(console, arguments.log_format) if arguments.verbose else None, progress=show_start
        )
        suite.start()
    try:
        console.print(f"services ready after {time.monotonic() - started_s:.1f} s", style="dim")
        yield suite
    finally:
        suite.stop()


def _check_addresses(addresses: Mapping[str, str | None]) -> None:
    """By the flags that they are given with."""
    given = [address for address in addresses.values() if address is not None]
    if len(set(given)) < len(given):
        raise ValueError(f"{' and '.join(addresses)} are the same, {given[0]}; give two")
    for flag, address in addresses.items():
        if address is None:
            continue
        try:
            check_can_listen(address)
        except OSError as error:
            raise OSError(f"{flag}: {error}") from error


def _check_http(arguments: argparse.Namespace) -> None:
    if arguments.http_address is None:
        if arguments.http_api_key_file or arguments.http_allowed_origins:
            raise ValueError("--http-api-key-file and --http-allowed-origins need --http-address")
    elif arguments.http_api_key_file is not None:
        try:
            read_keys(arguments.http_api_key_file)
        except (OSError, ValueError) as error:
            raise ValueError(f"--http-api-key-file: {error}") from error


def _check_tls(arguments: argparse.Namespace) -> None:
    files = TlsFiles(arguments.tls_certificate, arguments.tls_private_key, arguments.tls_client_ca)
    if files != TlsFiles():
        check_server_tls(files)


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


@contextlib.contextmanager
def showing(
    console: rich.console.Console, message: str, clock: Callable[[], float] = time.monotonic
) -> Iterator[Callable[[str], None]]:
    """``waiting``, with a function that shows further messages: in place on a terminal, elsewhere in lines.

    A message that differs from the last one in its numbers only is the same work getting on: no line, unless the last one is old.
    """
    with waiting(console, message) as status:
        last, last_s = "", clock()

        def show(message: str) -> None:
            nonlocal last, last_s
            status.update(message)
            kind = _NUMBERS.sub("", message)
            if console.is_terminal or (kind == last and clock() - last_s < _SAME_WORK_INTERVAL_S):
                return
            last, last_s = kind, clock()
            console.print(message, style="dim", markup=False)

        yield show


def waiting(console: rich.console.Console, message: str) -> rich.status.Status:
    """A spinner on a terminal; elsewhere one line, so that logs and pipes see the step too."""
    if not console.is_terminal:
        console.print(f"{message} ...", style="dim")
    return console.status(message, spinner="dots")


def log_to(console: rich.console.Console, log_format: str | None = None) -> LogLine:
    """Prints each line with its service's name, once."""

    def log_line(name: str, line: str) -> None:
        # The services' own announcement is for whoever starts one by hand; the suite says where the router listens.
        if line.startswith("listening on "):
            return
        log = parsed(line)
        if log is not None and log.service == name:
            console.out(line, highlight=False)
        elif log_format == "json":
            fields = json.loads(line) if log is not None and line.startswith("{") else {"message": line}
            console.out(json.dumps(fields | {"service": name}, ensure_ascii=False), highlight=False)
        else:
            console.out(f"{name}: {line}", highlight=False)

    return log_line

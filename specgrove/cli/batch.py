"""``specgrove batch``: a file of requests in, a file of answers out, through the HTTP API of a suite."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path

import rich.console

from specgrove.batch.answers_file import AnswersFile, BatchAnswer
from specgrove.batch.http_api import HttpPlace
from specgrove.batch.requests_file import BatchRequest, read_requests
from specgrove.batch.run import run_batch
from specgrove.cli.connecting import api_key_of, check_connection_options, tls_files
from specgrove.cli.progress import showing
from specgrove.cli.rendering import make_console, print_json, print_note
from specgrove.cli.suites import given_settings, started_suite
from specgrove.machine.owned_folders import temporary_folder
from specgrove.settings import SuiteSettings

_HTTP_ADDRESS = ("router", "http-address")
_SOCKET = "http.sock"
# What a suite has for others than the one who started it.
_FOR_OTHERS = (
    _HTTP_ADDRESS, ("router", "api-key-file"), ("router", "http-allowed-origins"), ("router", "tls-certificate"),
)  # fmt: skip


def run(arguments: argparse.Namespace) -> int:
    """Exit code 0 when every request has outputs, 1 when one has not, 130 when Ctrl-C stopped it."""
    requests = read_requests(arguments.input)
    _check_output(arguments.input, arguments.output)
    check_connection_options(arguments)
    settings = given_settings(arguments)
    if arguments.address is None:
        _check_is_private(settings)
    errors = make_console(stderr=True, quiet=arguments.quiet)
    with AnswersFile(arguments.output, [request.custom_id for request in requests]) as answers:
        try:
            _answer_rest(arguments, settings, requests, answers, errors)
        except KeyboardInterrupt:
            told = f"stopped: {len(answers.answered)} of {len(requests)} requests have their answers"
            print_note(errors, f"{told}; the same command goes on")
            return 130
        found = answers.put_in_order()
    failed = [answer for answer in found if not answer.is_good]
    if arguments.json:
        print_json({"num_requests": len(found), "num_failed": len(failed), "output": str(arguments.output)})
    else:
        print_note(errors, f"{len(found) - len(failed)} of {len(found)} requests have outputs in {arguments.output}")
    if failed:
        first = f"the first, {failed[0].custom_id!r}, with: {failed[0].problem}"
        make_console(stderr=True).print(f"{len(failed)} of {len(found)} requests failed, {first}", markup=False)
    return 1 if failed else 0


def _answer_rest(
    arguments: argparse.Namespace,
    settings: SuiteSettings,
    requests: Sequence[BatchRequest],
    answers: AnswersFile,
    errors: rich.console.Console,
) -> None:
    """Those that have no answer of an earlier run."""
    left = [request for request in requests if request.custom_id not in answers.answered]
    if answers.answered:
        print_note(errors, f"going on: {len(answers.answered)} of {len(requests)} requests have their answers")
    if not left:
        return
    with _place(arguments, settings) as place, showing(errors, "answering") as show:

        def on_answer(_: BatchAnswer) -> None:
            show(f"{len(answers.answered)} of {len(requests)} requests answered")

        asyncio.run(run_batch(left, answers, place, arguments.at_once, on_answer))


def _check_output(source: Path, target: Path) -> None:
    if target.exists() and source.samefile(target):
        raise ValueError("--output is the file of the requests: give another")
    if not target.absolute().parent.is_dir():
        raise ValueError(f"--output: there is no folder {target.absolute().parent}")


@contextlib.contextmanager
def _place(arguments: argparse.Namespace, settings: SuiteSettings) -> Iterator[HttpPlace]:
    """The HTTP API that ``--address`` names, or that of a private suite, which is started and stopped again."""
    if arguments.address is not None:
        yield HttpPlace(arguments.address, tls_files(arguments), api_key_of(arguments))
        return
    with temporary_folder("specgrove-batch-", socket_names=(_SOCKET,)) as folder:
        address = f"unix:{folder}/{_SOCKET}"
        with started_suite(SuiteSettings({_HTTP_ADDRESS: address}).over(settings), None, arguments):
            yield HttpPlace(address)


def _check_is_private(settings: SuiteSettings) -> None:
    if given := [f"--{name}" for section, name in settings.given if (section, name) in _FOR_OTHERS]:
        raise ValueError(f"{', '.join(given)}: a suite that is started for a batch serves nobody else")

"""``python -m router``: the command line to a frozen ``RouterConfig``, and the process around the app."""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections.abc import Sequence
from pathlib import Path

from router.app import serve
from router.config import RouterConfig, TreeConfig
from specgrove.serving.address import TlsFiles, checked_address
from specgrove.telemetry import set_up_logging

# A thread that renders a long conversation hands the interpreter over after this time. The event loop asks for it several
# times for each token that it passes on.
_SWITCH_INTERVAL_S = 0.001


def config_of(arguments: Sequence[str] | None = None) -> RouterConfig:
    """Parses the command line; exits with a message when it is wrong."""
    defaults, trees = RouterConfig(llm_addresses=()), TreeConfig()
    parser = argparse.ArgumentParser(
        prog="python -m router",
        description="The router: the public API of SpecGrove. It drafts with SSM services and verifies with LLM services.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add = parser.add_argument
    add("--address", type=_address, default=defaults.address, help="where clients connect, HOST:PORT or unix:/path")
    add(
        "--llm",
        type=_address,
        action="append",
        metavar="ADDRESS",
        help="an LLM service; repeat for replicas of one model",
    )
    add(
        "--ssm", type=_address, action="append", metavar="ADDRESS", help="an SSM service; repeat for more, or leave out"
    )
    add("--max-requests", type=_count, default=defaults.max_num_requests, help="requests served at once")
    add(
        "--max-queued",
        type=_count_or_zero,
        default=defaults.max_num_queued,
        help="requests that may wait for their turn",
    )
    add(
        "--max-tree-nodes",
        type=_count_or_zero,
        default=trees.max_num_nodes,
        help="nodes per tree, root not counted; 0: none",
    )
    add("--max-tree-depth", type=_count, default=trees.max_depth, help="depth of the trees")
    add("--beam-width", type=_count, default=trees.beam_width, help="nodes expanded per level; unset: each SSM's own")
    add(
        "--tree-policy",
        choices=("adaptive", "static"),
        default="adaptive" if trees.is_adaptive else "static",
        help="adaptive: size the trees by measurement, up to the limits above; static: always ask for the limits",
    )
    add(
        "--replica-wait-s",
        type=_seconds,
        default=defaults.replica_wait_s,
        help="wait for a lost LLM service to come back",
    )
    add(
        "--busy-wait-s",
        type=_seconds,
        default=defaults.busy_wait_s,
        help="wait for an LLM service that has no free slots",
    )
    add(
        "--drain-timeout-s",
        type=_seconds,
        default=defaults.drain_timeout_s,
        help="time for running requests after SIGTERM",
    )
    add(
        "--max-request-s",
        type=_positive_seconds,
        default=defaults.max_request_s,
        help="time that one request may take; unset: as long as its client waits",
    )
    add(
        "--reader-timeout-s",
        type=_positive_seconds,
        default=defaults.reader_timeout_s,
        help="time that a client may leave its stream unread before its request is ended",
    )
    add(
        "--max-requests-per-connection",
        type=_count,
        default=defaults.max_num_per_connection,
        help="of those the requests of one connection; unset: 3/4 of --max-requests",
    )
    add("--max-request-bytes", type=_count, default=defaults.max_request_bytes, help="size of a request's message")
    add("--tls-certificate", type=Path, help="PEM file; with --tls-private-key, clients connect by TLS")
    add("--tls-private-key", type=Path, help="PEM file")
    add("--tls-client-ca", type=Path, help="PEM file; clients must have a certificate of this CA")
    add("--log-level", choices=("DEBUG", "INFO", "WARNING", "ERROR"), default="INFO", help="what to log on stderr")
    given = parser.parse_args(arguments)
    if not given.llm:
        parser.error("at least one --llm ADDRESS is needed")
    if (given.tls_certificate is None) != (given.tls_private_key is None):
        parser.error("--tls-certificate and --tls-private-key go together")
    tls = None
    if given.tls_certificate is not None:
        tls = TlsFiles(given.tls_certificate, given.tls_private_key, given.tls_client_ca)
    return RouterConfig(
        llm_addresses=tuple(given.llm),
        ssm_addresses=tuple(given.ssm or ()),
        address=given.address,
        max_num_requests=given.max_requests,
        max_num_queued=given.max_queued,
        replica_wait_s=given.replica_wait_s,
        busy_wait_s=given.busy_wait_s,
        drain_timeout_s=given.drain_timeout_s,
        max_request_s=given.max_request_s,
        reader_timeout_s=given.reader_timeout_s,
        max_num_per_connection=given.max_requests_per_connection,
        max_request_bytes=given.max_request_bytes,
        trees=TreeConfig(
            given.max_tree_nodes, given.max_tree_depth, given.beam_width, is_adaptive=given.tree_policy == "adaptive"
        ),
        log_level=given.log_level,
        server_tls=tls,
    )


def main() -> None:
    """Runs until SIGTERM or SIGINT."""
    config = config_of()
    set_up_logging("router", config.log_level)
    sys.setswitchinterval(_SWITCH_INTERVAL_S)
    try:
        asyncio.run(serve(config))
    except (RuntimeError, OSError) as error:
        sys.exit(f"router: {error}")


def _address(text: str) -> str:
    try:
        return checked_address(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def _count_or_zero(text: str) -> int:
    if not text.isdigit():
        raise argparse.ArgumentTypeError(f"must be a number >= 0, got {text!r}")
    return int(text)


def _count(text: str) -> int:
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be a number >= 1, got {text!r}")
    return int(text)


def _seconds(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value < 1e9:
        raise argparse.ArgumentTypeError(f"must be seconds >= 0, got {text!r}")
    return value


def _positive_seconds(text: str) -> float:
    value = _seconds(text)
    if value == 0:
        raise argparse.ArgumentTypeError("must be seconds > 0")
    return value


if __name__ == "__main__":
    main()

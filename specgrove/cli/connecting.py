"""How commands reach a router: a running one by address, or that of a private suite, which is started and stopped again."""

from __future__ import annotations

import argparse
import contextlib
from collections.abc import Iterator
from pathlib import Path

from specgrove.client import Client
from specgrove.errors import UnavailableError
from specgrove.serving.address import TlsFiles
from specgrove.serving.status import connection_cause, is_cut_off, is_not_connected
from specgrove.settings import flags_given

_CONNECTION_OPTIONS = ("tls_ca", "client_certificate", "client_private_key", "token_file")


@contextlib.contextmanager
def connected(arguments: argparse.Namespace) -> Iterator[Client]:
    """A client of the suite that ``--address`` names, or of a private one that runs until the block ends."""
    if arguments.address is None:
        if foreign := _given(arguments, (*_CONNECTION_OPTIONS, "tls")):
            raise ValueError(f"{', '.join(foreign)}: how to connect to a running suite; give its --address too")
        from specgrove.cli.suites import given_settings, started_suite  # brings what loads models

        settings = given_settings(arguments)
        address = settings.given.get(("router", "address"))
        with started_suite(settings, address, arguments) as suite, Client(suite.local_address) as client:
            yield client
        return
    # Which SSMs a request asks for is another matter.
    foreign = [flag for flag in flags_given(arguments) if flag != "--ssm"] + _given(arguments, ("config",))
    if foreign:
        raise ValueError(f"{', '.join(foreign)}: how to start a suite; the one at --address runs already")
    with Client(arguments.address, tls=_tls(arguments), token=_token(arguments)) as client:
        try:
            yield client
        except UnavailableError as error:
            if is_cut_off(str(error)):
                raise UnavailableError(
                    f"the router at {arguments.address} ended, or the connection did ({error}): the answer is not complete; "
                    "another try with the same seed gives the same tokens"
                ) from error
            if not is_not_connected(str(error)):
                raise
            raise UnavailableError(_hint(arguments, str(error))) from error


def _hint(arguments: argparse.Namespace, cause: str) -> str:
    """What to look at when there is no connection; gRPC's own words come last."""
    is_encrypted = _tls(arguments) is not None
    if "CERTIFICATE_VERIFY_FAILED" in cause:
        advice = "its certificate is not of an authority that is trusted here: --tls-ca FILE names one"
    elif is_encrypted:
        advice = "is it there, and does it speak TLS?"
    else:
        advice = "start one with `specgrove serve`; if it speaks TLS, give --tls or --tls-ca FILE"
    return f"no router answers at {arguments.address}: {advice} ({connection_cause(cause)})"


def _given(arguments: argparse.Namespace, names: tuple[str, ...]) -> list[str]:
    return [f"--{name.replace('_', '-')}" for name in names if getattr(arguments, name) not in (None, False)]


def _tls(arguments: argparse.Namespace) -> TlsFiles | None:
    certificate, key, ca = (
        None if name is None else Path(name).expanduser()
        for name in (arguments.client_certificate, arguments.client_private_key, arguments.tls_ca)
    )
    if not arguments.tls and certificate is key is ca is None:
        return None
    return TlsFiles(certificate, key, ca)


def _token(arguments: argparse.Namespace) -> str | None:
    return None if arguments.token_file is None else Path(arguments.token_file).expanduser().read_text().strip()

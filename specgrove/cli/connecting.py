"""How commands reach a router: a running one by address, or that of a private suite, which is started and stopped again."""

from __future__ import annotations

import argparse
import contextlib
import sys
import warnings
from collections.abc import Iterator

from specgrove.client import Client
from specgrove.errors import UnauthorizedError, UnavailableError
from specgrove.machine.folders import typed_path
from specgrove.serving.key_file import first_key
from specgrove.serving.status import connection_cause, is_cut_off, is_not_connected
from specgrove.serving.tls import TlsFiles
from specgrove.settings import flags_given

_KEY_FLAG = "--api-key-file"
_CONNECTION_OPTIONS = ("tls_ca", "client_certificate", "client_private_key")


@contextlib.contextmanager
def connected(arguments: argparse.Namespace, *, needs_chat: bool = False) -> Iterator[Client]:
    """A client of the suite that ``--address`` names, or of a private one that runs until the block ends.

    ``needs_chat``: of one with a model that takes conversations.
    """
    check_connection_options(arguments)
    if arguments.address is None:
        from specgrove.cli.suites import given_settings, started_suite  # brings what loads models

        settings = given_settings(arguments)
        address = settings.given.get(("router", "address"))
        started = started_suite(settings, address, arguments, needs_chat=needs_chat)
        with started as suite, Client(suite.local_address) as client:
            yield client
        return
    with client_of(arguments) as client:
        try:
            yield client
        except UnauthorizedError as error:
            raise UnauthorizedError(f"{error} ({_KEY_FLAG} FILE sends the first key of the file)") from error
        except UnavailableError as error:
            if is_cut_off(str(error)):
                raise UnavailableError(
                    f"the router at {arguments.address} ended, or the connection did ({error}): the answer is not complete; "
                    "another try with the same seed gives the same tokens"
                ) from error
            if not is_not_connected(str(error)):
                raise
            raise UnavailableError(_hint(arguments, str(error))) from error


def check_connection_options(arguments: argparse.Namespace) -> None:
    """Raises ``ValueError`` for options that are for a running suite where one is started, and the other way round."""
    if arguments.address is None:
        if foreign := _given(arguments, (*_CONNECTION_OPTIONS, "tls")):
            raise ValueError(f"{', '.join(foreign)}: how to connect to a running suite; give its --address too")
        return
    # Which SSMs a request asks for, and which key it carries, are other matters.
    foreign = [flag for flag in flags_given(arguments) if flag not in ("--ssm", _KEY_FLAG)]
    foreign += _given(arguments, ("config",))
    if foreign:
        raise ValueError(f"{', '.join(foreign)}: how to start a suite; the one at --address runs already")


def _hint(arguments: argparse.Namespace, cause: str) -> str:
    """What to look at when there is no connection; gRPC's own words come last."""
    is_encrypted = tls_files(arguments) is not None
    if "CERTIFICATE_VERIFY_FAILED" in cause:
        advice = "its certificate is not of an authority that is trusted here: --tls-ca FILE names one"
    elif is_encrypted:
        advice = "is it there, and does it speak TLS?"
    else:
        advice = "start one with `specgrove serve`; if it speaks TLS, give --tls or --tls-ca FILE"
    return f"no router answers at {arguments.address}: {advice} ({connection_cause(cause)})"


def _given(arguments: argparse.Namespace, names: tuple[str, ...]) -> list[str]:
    return [f"--{name.replace('_', '-')}" for name in names if getattr(arguments, name) not in (None, False)]


def tls_files(arguments: argparse.Namespace) -> TlsFiles | None:
    """``None`` for a connection that is not encrypted."""
    certificate, key, ca = (
        None if name is None else typed_path(name)
        for name in (arguments.client_certificate, arguments.client_private_key, arguments.tls_ca)
    )
    if not arguments.tls and certificate is key is ca is None:
        return None
    return TlsFiles(certificate, key, ca)


def client_of(arguments: argparse.Namespace) -> Client:
    """A client of the router at ``--address``. Says what the client warns of in a line."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        client = Client(arguments.address, tls=tls_files(arguments), api_key=api_key_of(arguments))
    for warning in caught:
        print(f"warning: {warning.message}: --tls or --tls-ca FILE", file=sys.stderr)
    return client


def api_key_of(arguments: argparse.Namespace) -> str | None:
    """The key that goes with requests: the first of the file, where one is given. Raises ``ValueError``."""
    return None if arguments.api_key_file is None else first_key(arguments.api_key_file)

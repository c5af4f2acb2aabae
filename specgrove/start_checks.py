"""What a suite's settings must be before anything slow begins, as far as that shows without a model.

Used by commands and the Python API, which turn the flags in the texts into their own words.
"""

from __future__ import annotations

from specgrove.addresses import next_ports
from specgrove.serving.address import TlsFiles, check_server_tls
from specgrove.serving.api_keys import read_keys
from specgrove.serving.listening import check_can_listen
from specgrove.settings import SECTIONS, SuiteSettings, in_suite_flags
from specgrove.settings.rules import check_together
from specgrove.ssm_specs import asks_for_none, parse_ssms


def check_settings(settings: SuiteSettings, address: str | None) -> None:
    """``address`` is where the router is to listen, if not in a private place. Raises ``ValueError`` and ``OSError``."""
    settings = SuiteSettings({**settings.given, ("router", "address"): address})
    for section in SECTIONS:
        try:
            check_together(section, lambda name, section=section: settings[section, name])  # type: ignore[misc]
        except ValueError as error:
            raise ValueError(in_suite_flags(str(error), section)) from error
    if not asks_for_none(asked := settings["ssm", "ssm"] or ()):
        parse_ssms(asked)
    _check_addresses(settings)
    _check_files(settings)


def _check_addresses(settings: SuiteSettings) -> None:
    addresses = {"--grpc-address": settings["router", "address"], "--http-address": settings["router", "http-address"]}
    if (first := settings["", "metrics-address"]) is not None:
        metrics = next_ports(first, 2 + settings["", "llm-replicas"])
        addresses |= {f"--metrics-address{f' + {port}' if port else ''}": place for port, place in enumerate(metrics)}
    flag_of: dict[str, str] = {}
    for flag, address in addresses.items():
        if address is None:
            continue
        # Port 0 is another one each time.
        if (other := flag_of.setdefault(address, flag)) != flag and not address.endswith(":0"):
            raise ValueError(f"{other} and {flag} are the same, {address}; give two")
        try:
            check_can_listen(address)
        except OSError as error:
            raise OSError(f"{flag}: {error}") from error


def _check_files(settings: SuiteSettings) -> None:
    files = TlsFiles(*(settings["router", f"tls-{name}"] for name in ("certificate", "private-key", "client-ca")))
    if files != TlsFiles():
        check_server_tls(files)
    key_file = settings["router", "api-key-file"]
    if key_file is not None:
        try:
            read_keys(key_file)
        except (OSError, ValueError) as error:
            raise ValueError(f"--api-key-file: {error}") from error

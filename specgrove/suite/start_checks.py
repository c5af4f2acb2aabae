"""What a suite's settings must be before anything slow begins, as far as that shows without a model.

Used by commands and the Python API, which turn the flags in the texts into their own words.
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Sequence
from pathlib import Path

from specgrove.addresses import is_unix, next_ports
from specgrove.errors import NO_TORCH
from specgrove.kernels.threads import check_isa
from specgrove.machine.cpus import too_few_for
from specgrove.machine.gpus import may_have_gpu
from specgrove.models.decoder.family import read_spec
from specgrove.models.folders.hub import ModelNotFoundError, check_named
from specgrove.models.planning.demand import ModelDemand
from specgrove.models.planning.fitting import check_before_start
from specgrove.models.planning.ssm_fitting import SsmDemand, check_ssms_before_start, found_ssm
from specgrove.serving.key_file import read_key_file
from specgrove.serving.listening import check_can_listen
from specgrove.serving.tls import server_tls
from specgrove.settings import SECTIONS, SuiteSettings, in_suite_flags
from specgrove.settings.rules import check_together
from specgrove.settings.ssm_specs import asks_for_none, parse_ssms
from specgrove.tokenizer import chat_problem_of


def check_settings(settings: SuiteSettings, address: str | None, called: str = "--ssm") -> None:
    """Raises ``ValueError`` and ``OSError``.

    ``address`` is where the router is to listen, if not in a private place; ``called`` is what the caller knows SSMs by.
    """
    _check_torch()
    settings = SuiteSettings({**settings.given, ("router", "address"): address})
    for section in SECTIONS:
        try:
            check_together(section, lambda name, section=section: settings[section, name])  # type: ignore[misc]
        except ValueError as error:
            raise ValueError(in_suite_flags(str(error), section)) from error
    if (isa := settings["llm", "instruction-set"]) != "auto":
        check_isa(isa)
    _check_addresses(settings)
    _check_files(settings)
    _check_models(settings, called)


def _check_torch() -> None:
    """Installations of routers and clients alone have none."""
    if importlib.util.find_spec("torch") is None:
        raise ValueError(NO_TORCH)


def _check_addresses(settings: SuiteSettings) -> None:
    addresses = {
        "--grpc-address": settings["router", "address"],
        "--http-address": settings["router", "http-address"],
        "--health-address": settings["router", "health-address"],
    }
    if (first := settings["", "metrics-address"]) is not None:
        metrics = next_ports(first, 2 + settings["", "llm-replicas"])
        addresses |= {f"--metrics-address{f' + {port}' if port else ''}": place for port, place in enumerate(metrics)}
    flag_of: dict[str, str] = {}
    for flag, address in addresses.items():
        if address is None:
            continue
        if not is_unix(address) and int(address.rpartition(":")[2]) == 0:
            raise ValueError(f"{flag} {address}: nobody would know which port it is; give one from 1 to 65535")
        if (other := flag_of.setdefault(address, flag)) != flag:
            raise ValueError(f"{other} and {flag} are the same, {address}; give two")
        try:
            check_can_listen(address)
        except OSError as error:
            raise OSError(f"{flag}: {error}") from error


def _check_files(settings: SuiteSettings) -> None:
    server_tls(*(settings["router", f"tls-{name}"] for name in ("certificate", "private-key", "client-ca")))
    key_file = settings["router", "api-key-file"]
    if key_file is not None:
        try:
            read_key_file(key_file)
        except ValueError as error:
            raise ValueError(f"--api-key-file: {error}") from error
    for section in ("llm", "ssm"):
        _check_cache(settings[section, "cache-dir"])


def _check_cache(folder: Path) -> None:
    existing = next(place for place in (folder, *folder.absolute().parents) if place.exists())
    if not existing.is_dir() or not os.access(existing, os.W_OK | os.X_OK):
        raise ValueError(f"--cache-dir {folder}: {existing} is no folder that can be written to")


def crowding_of(settings: SuiteSettings) -> str | None:
    """What to warn of where the LLM would compute with more threads than there are CPUs, or ``None``. As services share them out."""
    device = settings["llm", "device"]
    if device == "cuda" or (device == "auto" and may_have_gpu()):
        return None
    num_replicas = settings["", "llm-replicas"]
    num_ranks = ModelDemand.of(lambda name: settings["llm", name]).layout.num_ranks
    num_threads = max(1, settings["llm", "threads"] // num_replicas // num_ranks)
    groups = ((num_replicas, "LLM replicas"), (num_ranks, "ranks"))
    who = " of ".join(f"{number} {name}" for number, name in groups if number > 1)
    if not who:
        who = f"{num_threads} threads"
    elif num_threads > 1:
        who += f" with {num_threads} threads each"
    return too_few_for(who, num_replicas * num_ranks * num_threads)


def _check_models(settings: SuiteSettings, called: str) -> None:
    """All that are named, before the first is fetched or converted."""
    check_named(settings["llm", "model"])
    asked = settings["ssm", "ssm"] or ()
    specs = () if asks_for_none(asked, called) else parse_ssms(asked)
    for text, spec in zip(asked, specs, strict=False):
        try:
            if spec.model is not None:
                check_named(spec.model, needs_tokenizer=False)
        except ModelNotFoundError as error:
            raise ValueError(f"{called} {text}: {error}") from error


def check_model(settings: SuiteSettings, folder: Path, *, needs_chat: bool = False) -> None:
    """Of an LLM that is there: whether it can be served as the settings say, and with ``needs_chat``, whether it takes conversations.

    Raises ``ValueError`` and ``OSError``.
    """
    read_spec(folder)
    if needs_chat and (problem := chat_problem_of(folder)) is not None:
        raise ValueError(f"{folder.name} takes no conversations: {problem}, with `specgrove generate --raw`")
    try:
        demand = ModelDemand.of(lambda name: settings["llm", name])
        check_before_start(demand, folder, settings["llm", "cache-dir"], settings["", "llm-replicas"])
    except ValueError as error:
        raise ValueError(in_suite_flags(str(error), "llm")) from error


def check_ssms(settings: SuiteSettings, ssms: Sequence[str], llm_folder: Path) -> None:
    """Of SSMs that are there, and can draft for the LLM in ``llm_folder``: whether they can be served as set. Raises ``ValueError``."""
    specs = [spec for spec in parse_ssms(ssms) if spec.model is not None]
    found = [found_ssm(spec, settings["ssm", "cache-dir"], lambda _: None) for spec in specs]
    try:
        check_ssms_before_start(SsmDemand.of(lambda name: settings["ssm", name]), found, llm_folder)
    except ValueError as error:
        raise ValueError(in_suite_flags(str(error), "ssm")) from error

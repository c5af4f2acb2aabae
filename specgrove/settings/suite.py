"""The services' settings as flags of ``specgrove serve``, and what was given there as the services' own."""

from __future__ import annotations

import argparse
from dataclasses import dataclass, replace

from specgrove.settings.services import SERVICES
from specgrove.settings.setting import Setting, in_words


@dataclass(frozen=True, slots=True)
class SuiteSetting:
    """A flag of ``specgrove serve``, and the services that get its value under ``Setting.name``."""

    setting: Setting
    services: tuple[str, ...]
    name_there: str


def suite_settings() -> tuple[SuiteSetting, ...]:
    """The services' settings as flags of one command: shared ones once, names that two services have with the SSM's prefixed."""
    found: dict[str, SuiteSetting] = {}
    for service, settings in SERVICES.items():
        for setting in settings:
            if setting.is_of_suite:
                continue
            known = found.get(setting.name)
            if known is not None and setting.is_shared:
                found[setting.name] = replace(known, services=(*known.services, service))
                continue
            name = setting.name if known is None else f"{service.removesuffix('_service')}-{setting.name}"
            found[name] = SuiteSetting(replace(setting, name=name), (service,), setting.name)
    return tuple(found.values())


def given_arguments(arguments: argparse.Namespace) -> dict[str, tuple[str, ...]]:
    """By service: the flags, as typed for it, of the suite's settings that were given in ``add_settings(..., has_defaults=False)``."""
    by_service: dict[str, list[str]] = {service: [] for service in SERVICES}
    for known in suite_settings():
        value = getattr(arguments, known.setting.attribute, None)
        if value is None:
            continue
        for service in known.services:
            flag = f"--{known.name_there}"
            by_service[service] += [flag] if known.setting.is_switch else [flag, in_words(value)]
    return {service: tuple(words) for service, words in by_service.items()}

"""The settings of a whole suite: as flags of ``specgrove serve``, and what was given there or in a file.

Each setting of a service has a flag with the service's name before a dot, ``--llm.kv-slots``, and most have a short one, ``--kv-slots``.
Shared ones are for all services that have them, unless one is given its own. Values are kept by their place.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from specgrove.settings.services import SECTIONS, SUITE
from specgrove.settings.setting import Setting, attribute_of

Place = tuple[str, str]
"""Section and name of a setting: ``("llm", "kv-slots")``. The section of the suite's own is empty."""

_SERVICE_NAMES = {"": "the suite", "router": "the router", "llm": "the LLM service", "ssm": "the SSM service"}


@dataclass(frozen=True, slots=True)
class SuiteFlag:
    """``--name`` of ``specgrove serve``, and the sections whose setting it is. ``is_listed``: in the help; other forms are known, too."""

    name: str
    setting: Setting
    sections: tuple[str, ...]
    is_listed: bool = True

    @property
    def attribute(self) -> str:
        """Its name in a parsed command line."""
        return attribute_of(self.name)


def setting_at(place: Place) -> Setting:
    """The declaration. There must be one."""
    section, name = place
    return next(setting for setting in SECTIONS.get(section, SUITE) if setting.name == name)


def suite_flags() -> tuple[SuiteFlag, ...]:
    """All flags that set something of a suite. Those with a service's name come last: they go before the shared ones."""
    short: dict[str, SuiteFlag] = {}
    dotted = []
    for section, settings in SECTIONS.items():
        for setting in settings:
            if setting.is_of_suite:
                continue
            name = setting.short or setting.name
            known = short.get(name)
            if known is None or setting.is_shared:
                short[name] = SuiteFlag(name, setting, (*(known.sections if known else ()), section))
            is_only_form = known is not None and not setting.is_shared
            dotted.append(SuiteFlag(f"{section}.{setting.name}", setting, (section,), is_listed=is_only_form))
    return (*short.values(), *(SuiteFlag(setting.name, setting, ("",)) for setting in SUITE), *dotted)


def shared_settings() -> dict[str, tuple[Setting, tuple[str, ...]]]:
    """By name: the settings that several services share, with the sections of these."""
    return {flag.name: (flag.setting, flag.sections) for flag in suite_flags() if len(flag.sections) > 1}


def of_whom(sections: Collection[str]) -> str:
    """The services in words."""
    names = [_SERVICE_NAMES[section] for section in sections]
    return "all services" if len(names) == len(SECTIONS) else " and ".join(names)


@dataclass(frozen=True, slots=True)
class SuiteSettings:
    """What was given for a suite, by place. All else has its default."""

    given: Mapping[Place, Any] = field(default_factory=dict)

    def __getitem__(self, place: Place) -> Any:
        """The value, or the default."""
        if place in self.given:
            return self.given[place]
        return setting_at(place).default_value

    def over(self, others: SuiteSettings) -> SuiteSettings:
        """Both; what is in both is taken from this one."""
        return SuiteSettings({**others.given, **self.given})

    def arguments(self, section: str, *, without: Collection[str] = ()) -> tuple[str, ...]:
        """What was given for a service, but some, as on its command line."""
        words: list[str] = []
        for (of_section, name), value in self.given.items():
            if of_section != section or name in without or value is None:
                continue
            setting = setting_at((of_section, name))
            for element in value if setting.is_repeatable else [value]:
                words += _words(setting, element)
        return tuple(words)


def _words(setting: Setting, value: Any) -> list[str]:
    if setting.is_switch:
        return [setting.flag if value else f"--no-{setting.name}"]
    return [setting.flag, setting.in_words(value)]


def settings_of(arguments: argparse.Namespace) -> SuiteSettings:
    """What was given on a command line that has all of ``suite_flags``."""
    given: dict[Place, Any] = {}
    for flag in suite_flags():
        value = getattr(arguments, flag.attribute, None)
        if value is not None:
            given |= {(section, flag.setting.name): value for section in flag.sections}
    return SuiteSettings(given)


def flags_given(arguments: argparse.Namespace) -> Iterator[str]:
    """As they were typed."""
    for flag in suite_flags():
        if getattr(arguments, flag.attribute, None) is not None:
            yield f"--{flag.name}"


_FLAG = re.compile(r"(?<![\w-])--([a-z][a-z0-9-]*[a-z0-9])")


def in_suite_flags(text: str, section: str) -> str:
    """A service's text in which its own flags have become those of ``specgrove serve``."""
    if "--" not in text:  # as most lines of logs
        return text
    flags = suite_flags()

    def flag_of(found: re.Match[str]) -> str:
        known = [flag.name for flag in flags if section in flag.sections and flag.setting.name == found[1]]
        return f"--{known[0]}" if known else found[0]

    return _FLAG.sub(flag_of, text)

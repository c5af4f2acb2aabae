"""The settings for people and editors: a whole configuration as the YAML that ``--config`` reads, and that file's JSON schema."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Iterator
from typing import Any

import yaml

from specgrove.settings.services import SECTIONS, SUITE
from specgrove.settings.setting import Setting
from specgrove.settings.suite import SuiteSettings, of_whom, shared_settings

_WIDTH = 110
# What PyYAML writes after a scalar that stands alone.
_END_OF_SCALAR = "...\n"


def config_text(settings: SuiteSettings) -> str:
    """All settings of a suite with their values and, as comments, their meaning. Files of keys are named; no key is shown."""
    shared = shared_settings()
    lines = ["# All settings of a suite, for `specgrove serve --config FILE`. null: not set.", ""]
    for setting in SUITE:
        lines += _entry(setting, settings["", setting.name])
    divided = set()
    for name, (setting, sections) in shared.items():
        values = [settings[section, name] for section in sections]
        if all(value == values[0] for value in values):
            lines += _entry(setting, values[0], note=f"; for {of_whom(sections)}")
        else:
            divided.add(name)
    for section, of_section in SECTIONS.items():
        lines += [f"# {of_whom([section])}", f"{section}:"]
        for setting in of_section:
            if not setting.is_of_suite and (setting.name not in shared or setting.name in divided):
                lines += (f"  {line}".rstrip() for line in _entry(setting, settings[section, setting.name]))
    return "\n".join(lines).rstrip() + "\n"


def _entry(setting: Setting, value: Any, note: str = "") -> Iterator[str]:
    is_said = setting.read is str or setting.allowed in setting.help
    allowed = "" if is_said and setting.choices is None else f" ({setting.allowed})"
    for line in textwrap.wrap(f"{setting.help}{note}{allowed}", _WIDTH, break_long_words=False):
        yield f"# {line}"
    dumped = yaml.safe_dump(_plain(setting, value), default_flow_style=True, allow_unicode=True, width=math.inf)
    yield f"{setting.name}: {dumped.removesuffix(_END_OF_SCALAR).strip()}"
    yield ""


def _plain(setting: Setting, value: Any) -> Any:
    """In YAML's own types. What is typed with a unit is a text."""
    if isinstance(value, (list, tuple)):
        return [_plain(setting, element) for element in value]
    if isinstance(value, float):
        return int(value) if value.is_integer() else value
    if value is None or isinstance(value, bool):
        return value
    words = setting.in_words(value)
    return value if isinstance(value, int) and words == str(value) else words


def config_schema() -> dict[str, Any]:
    """JSON schema of the file, by which editors complete and check it."""
    shared = shared_settings()
    top: dict[str, Any] = {setting.name: _schema_of(setting) for setting in SUITE}
    for name, (setting, sections) in shared.items():
        top[name] = _schema_of(setting, f"; for {of_whom(sections)}")
    for section, settings in SECTIONS.items():
        properties = {setting.name: _schema_of(setting) for setting in settings}
        top[section] = _object(properties, f"settings of {of_whom([section])}")
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **_object(top, "SpecGrove: settings of a suite")}


def _object(properties: dict[str, Any], title: str) -> dict[str, Any]:
    return {"title": title, "type": ["object", "null"], "properties": properties, "additionalProperties": False}


def _schema_of(setting: Setting, note: str = "") -> dict[str, Any]:
    allowed = dict(setting.schema)
    forms = [allowed, {"type": "null"}]
    if setting.is_repeatable:
        forms.insert(1, {"type": "array", "items": allowed})
    schema: dict[str, Any] = {"description": f"{setting.help}{note}", "anyOf": forms}
    # What depends on the machine is not its schema's.
    if setting.default is not None and not callable(setting.default):
        schema["default"] = _plain(setting, setting.default)
    return schema

"""The YAML file of ``--config``: its settings, checked against the declarations. Wrong ones are told with file, line and what is right.

The values are read from their text in the file, by the same functions as on a command line: ``2GiB`` and ``off`` mean the same in both.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NoReturn

import yaml

from specgrove.settings.services import SECTIONS, SUITE
from specgrove.settings.setting import Setting, nearest
from specgrove.settings.suite import Place, SuiteSettings, of_whom, shared_settings

_NULL, _BOOL = "tag:yaml.org,2002:null", "tag:yaml.org,2002:bool"
_TRUTHS = yaml.SafeLoader.bool_values


def read_config_file(path: Path, *, is_for_suite: bool) -> SuiteSettings:
    """What it gives. Raises ``ValueError`` and ``OSError``.

    ``is_for_suite``: what ``specgrove serve`` sets itself is wrong, too; the services by hand need it.
    """
    try:
        root = yaml.compose(path.read_text(encoding="utf-8"), Loader=yaml.SafeLoader)
    except yaml.MarkedYAMLError as error:
        line = "" if error.problem_mark is None else f":{error.problem_mark.line + 1}"
        raise ValueError(f"{path}{line}: is no YAML: {error.problem}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: is no YAML: {' '.join(str(error).split())}") from error
    except RecursionError as error:
        raise ValueError(f"{path}: is nested too deeply for a file of settings") from error
    return SuiteSettings(_Reader(path, is_for_suite).values_of(root))


class _Reader:
    def __init__(self, path: Path, is_for_suite: bool) -> None:
        self._path = path
        self._is_for_suite = is_for_suite

    def values_of(self, root: yaml.Node | None) -> dict[Place, Any]:
        own: dict[Place, Any] = {}
        shared: dict[Place, Any] = {}
        sharers = shared_settings()
        of_suite = {setting.name: setting for setting in SUITE}
        for key, value in self._items(root, "the file"):
            name = key.value
            if name in SECTIONS:
                own |= self._section(name, value)
            elif name in sharers:
                setting, sections = sharers[name]
                shared |= {(section, name): self._value(setting, name, value) for section in sections}
            elif name in of_suite:
                own["", name] = self._value(of_suite[name], name, value)
            else:
                self._fail(key, _unknown("", name))
        return {place: value for place, value in {**shared, **own}.items() if value is not None}

    def _section(self, section: str, node: yaml.Node) -> dict[Place, Any]:
        settings = {setting.name: setting for setting in SECTIONS[section]}
        values: dict[Place, Any] = {}
        for key, value in self._items(node, f"{section} (settings of {of_whom([section])})"):
            setting = settings.get(key.value)
            if setting is None:
                self._fail(key, _unknown(section, key.value))
            if setting.is_of_suite and self._is_for_suite:
                at_top = any(other.name == setting.name for other in SUITE)
                right = f"write {setting.name} at the top of the file" if at_top else "leave it out"
                self._fail(key, f"{section}.{setting.name} is set by `specgrove serve` itself; {right}")
            values[section, setting.name] = self._value(setting, f"{section}.{setting.name}", value)
        return values

    def _items(self, node: yaml.Node | None, what: str) -> Iterator[tuple[yaml.ScalarNode, yaml.Node]]:
        """Keys and values of a mapping; an empty one may be left out."""
        if node is None or node.tag == _NULL:
            return
        if not isinstance(node, yaml.MappingNode):
            self._fail(node, f"{what} must hold lines of NAME: VALUE, got {_shown(node)}")
        lines: dict[str, int] = {}
        for key, value in node.value:
            if not isinstance(key, yaml.ScalarNode):
                self._fail(key, f"a name is expected, got {_shown(key)}")
            if key.value in lines:
                self._fail(key, f"{key.value} is there twice, first in line {lines[key.value]}")
            lines[key.value] = key.start_mark.line + 1
            yield key, value

    def _value(self, setting: Setting, name: str, node: yaml.Node) -> Any:
        """``None`` for what is left open."""
        if node.tag == _NULL:
            return None
        if setting.is_switch:
            # What a tag calls so is written in any way.
            if node.tag != _BOOL or not isinstance(node, yaml.ScalarNode) or node.value.lower() not in _TRUTHS:
                self._fail(node, f"{name}: must be true or false, got {_shown(node)}")
            return _TRUTHS[node.value.lower()]
        if setting.is_repeatable:
            elements = node.value if isinstance(node, yaml.SequenceNode) else [node]
            return [self._read(setting, name, element) for element in elements]
        return self._read(setting, name, node)

    def _read(self, setting: Setting, name: str, node: yaml.Node) -> Any:
        is_list = isinstance(node, yaml.SequenceNode) and "array" in setting.schema.get("type", ())
        scalars = node.value if is_list else [node]
        if not all(isinstance(scalar, yaml.ScalarNode) for scalar in scalars):
            self._fail(node, f"{name}: must be {setting.allowed}, got {_shown(node)}")
        for scalar in scalars:
            if scalar.tag == _NULL:  # an element of a list: a value by itself may be left open
                said = (
                    f"write {scalar.value!r} in quotes if it is meant so"
                    if scalar.value
                    else "write it, or leave its line out"
                )
                self._fail(scalar, f"{name}: an element of the list has no value: {said}")
        try:
            return setting.value_of(",".join(scalar.value for scalar in scalars))
        except ValueError as error:
            self._fail(node, f"{name}: {error}")

    def _fail(self, node: yaml.Node, problem: str) -> NoReturn:
        raise ValueError(f"{self._path}:{node.start_mark.line + 1}: {problem}")


def _unknown(section: str, name: str) -> str:
    prefix = f"{section}." if section else ""
    said = f"there is no setting {prefix}{name}"
    wanted, keys = name.replace("_", "-"), _all_keys()
    if not section and wanted in keys and "." in wanted:
        place, _, own_name = wanted.partition(".")
        return f"{said} at the top: write {own_name} below {place}:"
    # A name that is right, in the wrong place; or of the right place, and wrong.
    placed = [key for key in keys if key.rpartition(".")[2] == wanted]
    if placed:
        return f"{said}; did you mean {min(placed, key=lambda key: not key.startswith(prefix))}?"
    here = [key for key in keys if key.startswith(prefix)] if section else [*keys, *SECTIONS]
    listed = f"; `specgrove serve --print-config` lists all: at the top, and below {', '.join(SECTIONS)}"
    return f"{said}{nearest(prefix + wanted, here) or listed}"


def _all_keys() -> list[str]:
    """As they are written with dots; shared ones stand at the top."""
    shared: Mapping[str, object] = shared_settings()
    keys = [*(setting.name for setting in SUITE), *shared]
    return keys + [
        f"{section}.{s.name}" for section, settings in SECTIONS.items() for s in settings if s.name not in shared
    ]


def _shown(node: yaml.Node) -> str:
    if isinstance(node, yaml.ScalarNode):
        return repr(node.value)
    return "a list" if isinstance(node, yaml.SequenceNode) else "a mapping"

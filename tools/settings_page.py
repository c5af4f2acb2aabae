"""Writes docs/settings.md, the page of all settings, from their declarations. ``make settings-page`` calls it, ``make check`` compares."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator

from specgrove.settings import SECTIONS, SUITE, Setting, of_whom
from specgrove.settings.suite import shared_settings

_BEGINNING = """\
# Settings

`make settings-page` writes this page from the declarations in `specgrove/settings`; don't edit it.

Every setting has one name, and files take no other. `specgrove serve` takes it as a flag with the service before a
dot, `--llm.kv-memory 2GiB`, and most also take a short flag, `--kv-memory 2GiB`. A few short flags have names of their
own: `--grpc-address` is `--router.address`. `demo`, `generate` and `chat` take the same where they start a suite. A
switch is turned off by `--no-NAME`.

A setting that services share, such as `--device cpu`, is for all of them, unless one has its own: `--ssm.threads 1`. The
services by hand (`python -m router`, ...) take the names alone, and the Python API takes them with `_`:
`sg.init(kv_memory="2GiB", ssm_threads=1)`.

## A file

    specgrove serve --config suite.yaml
    specgrove serve --config suite.yaml --print-config            # all settings with their values, as such a file
    specgrove serve --print-config-schema > suite.schema.json     # for editors that complete and check YAML

```yaml
# suite.yaml
device: cpu              # settings that services share, and those of the suite, stand at the top
router:
  address: 0.0.0.0:50051
  max-requests: 256
llm:
  model: ./my-model
  kv-memory: 2GiB
ssm:
  ssm: [lookup, "./small,width=4"]
  threads: 1
```

The command line goes before the file, and a service's own value before the shared one. Values are written as on the
command line. Paths are relative to the folder in which the command runs. What is empty or `null` is not set. A name
that there is not, and a value of the wrong type or range, is an error with file, line and what would be right.

The services by hand take the same file: each reads its section and what is shared. No setting comes from the environment.
"""


def page() -> str:
    """The whole page."""
    shared = shared_settings()
    lines = [_BEGINNING, "## The suite", "", *_table(SUITE)]
    of_several: dict[tuple[str, ...], list[Setting]] = {}
    for setting, sections in shared.values():
        of_several.setdefault(sections, []).append(setting)
    for sections, settings in of_several.items():
        named = ", ".join(f"`{section}`" for section in sections)
        lines += ["", f"## Shared by {of_whom(sections)}", "", f"At the top of a file, or in one of {named}.", ""]
        lines += _table(settings)
    for section, of_section in SECTIONS.items():
        own = [setting for setting in of_section if setting.name not in shared]
        lines += ["", f"## Of {of_whom([section])}: `{section}`", "", *_table(own, section)]
    return "\n".join(lines) + "\n"


def _table(settings: Iterable[Setting], section: str = "") -> Iterator[str]:
    yield "| name | default | values | |"
    yield "|---|---|---|---|"
    for setting in settings:
        yield f"| {_named(setting, section)} | {_default(setting)} | {_cell(setting.allowed)} | {_meaning(setting, section)} |"


def _named(setting: Setting, section: str) -> str:
    short = "" if setting.short is None else f", short `--{setting.short}`"
    return f"`{section}.{setting.name}`{short}" if section else f"`{setting.name}`"


def _default(setting: Setting) -> str:
    if setting.default_in_words is not None:
        return setting.default_in_words
    if setting.is_switch:
        return "`true`" if setting.default else "`false`"
    return "" if setting.default is None else f"`{setting.in_words(setting.default)}`"


def _meaning(setting: Setting, section: str) -> str:
    notes = ["; repeatable, a list in a file"] if setting.is_repeatable and "repeatable" not in setting.help else []
    if setting.is_of_suite:
        notes.append(f"; only for `python -m {'router' if section == 'router' else f'{section}_service'}`")
    return _cell(setting.help + "".join(notes))


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("*", "\\*")


if __name__ == "__main__":
    sys.stdout.write(page())

"""The command line of one service that is started by hand: its flags, and a file with settings below them."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from specgrove.settings.rules import check_together
from specgrove.settings.services import SECTIONS
from specgrove.settings.setting import add_settings, attribute_of, typed
from specgrove.settings.values import path


def parse_settings(
    parser: argparse.ArgumentParser, section: str, arguments: Sequence[str] | None
) -> argparse.Namespace:
    """All settings of the service: as given, else as in the file of ``--config``, else their defaults. Exits with what is wrong."""
    settings = SECTIONS[section]
    parser.usage = f"{parser.prog} [OPTION ...]"  # a list of all of them would hide what is wrong
    add_settings(parser, settings, has_defaults=False)
    parser.add_argument(
        "--config",
        type=typed(path),
        metavar="FILE",
        help="YAML file with settings; those of the command line go before it",
    )
    given = parser.parse_args(arguments)
    in_file = {}
    if given.config is not None:
        # Brings a library that most starts don't need.
        from specgrove.settings.config_file import read_config_file

        try:
            in_file = dict(read_config_file(given.config, is_for_suite=False).given)
        except OSError as error:
            parser.error(f"--config: {given.config}: {error.strerror}")
        except ValueError as error:
            parser.error(f"--config: {error}")
    for setting in settings:
        if getattr(given, setting.attribute) is None:
            value = in_file.get((section, setting.name))
            setattr(given, setting.attribute, setting.default_value if value is None else value)
    try:
        check_together(section, lambda name: getattr(given, attribute_of(name)))
    except ValueError as error:
        parser.error(str(error))
    return given

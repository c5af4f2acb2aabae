"""Every setting of the services and of a suite of them, declared once: its name, meaning, unit, range and default.

``python -m router``, ``llm_service`` and ``ssm_service`` read their command lines by these tables; ``specgrove serve``, the YAML file of
``--config``, the Python API and docs/settings.md come from them, too. Imports nothing heavy. Invariant: a value that a table accepts is
of the right type and range; what depends on the model or on other settings is checked by who takes it.
"""

from specgrove.settings.chat_page import CHAT_PAGE
from specgrove.settings.command_line import parse_settings
from specgrove.settings.llm import LLM
from specgrove.settings.router import API_KEY_FILE, ROUTER
from specgrove.settings.services import SECTIONS, SUITE
from specgrove.settings.setting import Setting, add_flag, add_settings, nearest, typed
from specgrove.settings.shared import CACHE_DIR, DRAIN
from specgrove.settings.ssm import SSM
from specgrove.settings.suite import (
    Place,
    SuiteFlag,
    SuiteSettings,
    flags_given,
    in_suite_flags,
    of_whom,
    setting_at,
    settings_of,
    suite_flags,
)
from specgrove.settings.values import Kind, at_least, in_words, parse_bytes, path, positive_seconds, stages, unsigned

__all__ = [
    "API_KEY_FILE", "CACHE_DIR", "CHAT_PAGE", "DRAIN", "LLM", "ROUTER", "SECTIONS", "SSM", "SUITE", "Kind", "Place", "Setting",
    "SuiteFlag", "SuiteSettings", "add_flag", "add_settings", "at_least", "flags_given", "in_suite_flags", "in_words", "nearest",
    "of_whom", "parse_bytes", "parse_settings", "path", "positive_seconds", "setting_at", "settings_of", "stages", "suite_flags",
    "typed", "unsigned",
]  # fmt: skip

"""Every setting of the three services, declared once: its flag, meaning, unit and default.

``python -m router``, ``llm_service`` and ``ssm_service`` read their command lines by these tables, and ``specgrove serve`` offers
the same flags and hands on what was given. Imports nothing heavy. Invariant: a value that a table accepts is of the right
type and range; what depends on the model or on other settings is checked by the service.
"""

from specgrove.settings.services import CACHE_DIR, DRAIN, LLM, ROUTER, SERVICES, SSM
from specgrove.settings.setting import Setting, add_settings, typed
from specgrove.settings.suite import SuiteSetting, given_arguments, suite_settings
from specgrove.settings.values import at_least, parse_bytes, positive_seconds, stages, unsigned

__all__ = [
    "CACHE_DIR", "DRAIN", "LLM", "ROUTER", "SERVICES", "SSM", "Setting", "SuiteSetting", "add_settings", "at_least",
    "given_arguments", "parse_bytes", "positive_seconds", "stages", "suite_settings", "typed",
    "unsigned",
]  # fmt: skip

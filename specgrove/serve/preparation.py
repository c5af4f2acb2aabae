"""From what an LLM was told to the suite that serves it. Everything that can be wrong is found here, before a process starts.

Imported by ``LLM.compile`` when it is called. Fetches, converts and quantises models where that has not been done yet.
"""

from __future__ import annotations

from collections.abc import Callable

from specgrove.machine.folders import provide_home
from specgrove.models.folders.hub import resolve_model
from specgrove.models.folders.quantized_cache import ensure_quantized
from specgrove.serve.errors import told_as_configuration
from specgrove.serve.plan import Plan
from specgrove.suite.processes import SuiteConfig, config_of
from specgrove.suite.ssm_choice import chosen_ssms, default_ssms
from specgrove.suite.start_checks import check_model, check_settings, check_ssms


def suite_config(plan: Plan, say: Callable[[str], None]) -> SuiteConfig:
    """Raises ``ConfigurationError``. ``say`` is told what takes long."""
    settings = plan.settings
    with told_as_configuration():
        provide_home()  # before libraries look for it
        address = settings.given.get(("router", "address"))
        check_settings(settings, address, called="SSM")
        cache_dir = settings["llm", "cache-dir"]
        folder = resolve_model(plan.model_name, cache_dir=cache_dir, progress=say)
        check_model(settings, folder)
        ssms = chosen_ssms(
            settings["ssm", "ssm"],
            folder,
            settings["ssm", "cache-dir"],
            say,
            called="SSM",
            defaults=default_ssms(settings),
        )
        check_ssms(settings, ssms, folder)
        folder = ensure_quantized(folder, settings["llm", "quantization"], cache_dir, say)
    return config_of(settings, folder, ssms, address)

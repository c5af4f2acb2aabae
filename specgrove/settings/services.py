"""All settings: those of the services by section, and those of a suite itself.

A new one is declared in its service's module, or in ``shared``, and nowhere else: command lines, YAML files, the Python API and
docs/settings.md take it from there.
"""

from __future__ import annotations

from specgrove.config import MAX_NUM_REPLICAS
from specgrove.settings.llm import LLM
from specgrove.settings.router import ROUTER
from specgrove.settings.setting import Setting
from specgrove.settings.ssm import SSM
from specgrove.settings.values import between, positive_seconds, tcp_address

SUITE = (
    Setting("llm-replicas", "LLM services to start", 1, between(1, MAX_NUM_REPLICAS), metavar="N", is_common=True),
    Setting(
        "start-timeout-s",
        "time that all services may take to get ready; unset: no limit while they load",
        None,
        positive_seconds,
        metavar="S",
        is_common=True,
    ),
    Setting(
        "metrics-address",
        "where Prometheus reads the router's metrics, in clear and for whoever reaches it; those of the SSM service at the next port, "
        "of the LLM services at the ports after it; unset: nowhere",
        None,
        tcp_address,
        metavar="HOST:PORT",
    ),
)

SECTIONS: dict[str, tuple[Setting, ...]] = {"router": ROUTER, "llm": LLM, "ssm": SSM}
"""By the name that a service has in a YAML file, and before the dot in flags."""

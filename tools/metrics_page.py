"""Writes the tables of docs/metrics.md from the definitions of metrics, which stand beside their counters.

``make metrics-page`` writes, ``make check`` refuses a page that differs (``--check``).
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path

from specgrove.telemetry.metrics import Metric

PAGE = Path("docs/metrics.md")
MODULES = {
    "Router": (
        "router.admission",
        "router.request_counts",
        "router.key_limits",
        "router.speculation_counts",
        "router.calibration",
        "router.ssm_pauses",
        "router.ssm_wishes",
        "router.replica_stats",
        "router.http.response_counts",
        "specgrove.serving.call_guard",
    ),
    "LLM service": ("llm_service.load", "llm_service.counts", "specgrove.serving.work_streams"),
    "SSM service": ("ssm_service.load", "ssm_service.counts", "specgrove.serving.work_streams"),
    "All": ("specgrove.telemetry.metrics.exposition",),
}
_BEGIN, _END = "<!-- made by `make metrics-page` from here -->\n", "<!-- to here -->\n"


def metrics_of(module_names: tuple[str, ...]) -> list[Metric]:
    """All that the modules define, in their order."""
    modules = [importlib.import_module(name) for name in module_names]
    return [value for module in modules for value in vars(module).values() if isinstance(value, Metric)]


def page_of(old: str) -> str:
    """The page with its tables made anew. Raises ``ValueError`` where it doesn't say where they belong."""
    before, begin, rest = old.partition(_BEGIN)
    _, end, after = rest.partition(_END)
    if not begin or not end:
        raise ValueError(f"{PAGE} lacks the lines {_BEGIN.strip()} and {_END.strip()}")
    return "".join((before, begin, "\n", *_lines(), end, after))


def _lines() -> Iterator[str]:
    for service, modules in MODULES.items():
        yield f"### {service}\n\n| metric | type | labels | meaning |\n|---|---|---|---|\n"
        for metric in metrics_of(modules):
            names = f"`{metric.name}`" + (f"<br>`{metric.vllm_name}`" if metric.vllm_name else "")
            labels = ", ".join(f"`{label}`" for label in metric.labels)
            yield f"| {names} | {metric.kind.value} | {labels} | {metric.help} |\n"
        yield "\n"


def main() -> int:
    """Exit code 1 where ``--check`` finds a difference."""
    old = PAGE.read_text(encoding="utf-8")
    new = page_of(old)
    if "--check" not in sys.argv[1:]:
        PAGE.write_text(new, encoding="utf-8")
    elif new != old:
        print(f"{PAGE} differs from the definitions of metrics: run 'make metrics-page' and commit", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())

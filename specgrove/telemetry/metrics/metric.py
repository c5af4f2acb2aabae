"""What a metric is, and a value of one."""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from specgrove.telemetry.metrics.histogram import Histogram


class Kind(enum.Enum):
    """As Prometheus has them. An ``INFO`` is a gauge of 1 whose labels are what it tells."""

    COUNTER = "counter"
    GAUGE = "gauge"
    HISTOGRAM = "histogram"
    INFO = "info"


@dataclass(frozen=True, slots=True)
class Metric:
    """A metric's definition: a constant of the module that counts. Its unit is in its name; names of counters end in ``_total``.

    ``vllm_name`` is what vLLM calls the same.
    """

    name: str
    kind: Kind
    help: str
    labels: tuple[str, ...] = ()
    vllm_name: str | None = None


Value = float | Histogram
Labels = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Reading:
    """A metric's value now; of one with labels, a value for each set of them."""

    metric: Metric
    value: Value | Mapping[Labels, Value]

    def by_labels(self) -> dict[Labels, Value]:
        """A copy: whoever counts may go on meanwhile."""
        return dict(self.value) if isinstance(self.value, Mapping) else {(): self.value}


Source = Callable[[], Iterable[Reading]]
"""Asked at each scrape, from any thread."""

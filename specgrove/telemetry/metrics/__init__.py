"""Metrics for Prometheus: what one is, counters that loops hold as plain numbers, and how a scrape reads them.

Whoever counts declares a ``Metric`` beside its counter, and tells its values as ``Reading``s; nothing is shared between processes or
kept in globals. Invariant: counting takes no lock and makes no object; the work is done where somebody scrapes. Counters are read from
another thread than the one that counts, so a scrape may see one of them a step ahead of another.
"""

from specgrove.telemetry.metrics.histogram import Histogram
from specgrove.telemetry.metrics.metric import Kind, Metric, Reading, Source, Value

__all__ = ["Histogram", "Kind", "Metric", "Reading", "Source", "Value"]

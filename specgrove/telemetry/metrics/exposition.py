"""Readings as Prometheus reads them: a registry for one process, made in its ``__main__``. Imports ``prometheus_client``."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.registry import Collector

from specgrove.telemetry.metrics.histogram import Histogram
from specgrove.telemetry.metrics.metric import Kind, Metric, Reading, Source
from specgrove.version import version

BUILD_INFO = Metric("specgrove_build_info", Kind.INFO, "1; its labels say what runs.", labels=("version", "service"))

_Family = CounterMetricFamily | GaugeMetricFamily | HistogramMetricFamily


@dataclass(frozen=True, slots=True)
class VllmNames:
    """Asks for metrics under vLLM's names, too. ``model_name`` is asked at each scrape; None while nobody knows it."""

    model_name: Callable[[], str | None]


def make_registry(service: str, sources: Sequence[Source], vllm: VllmNames | None = None) -> CollectorRegistry:
    """All of a process's metrics, its memory, processor time and start among them."""
    registry = CollectorRegistry()
    ProcessCollector(registry=registry)

    def build() -> Iterator[Reading]:
        yield Reading(BUILD_INFO, {(version(), service): 1})

    registry.register(_Readings((build, *sources), vllm))
    return registry


class _Readings(Collector):
    """Reads all sources at each scrape."""

    def __init__(self, sources: Sequence[Source], vllm: VllmNames | None) -> None:
        self._sources = sources
        self._vllm = vllm

    def collect(self) -> Iterator[_Family]:
        """See ``Collector``."""
        model_name = None if self._vllm is None else self._vllm.model_name()
        for source in self._sources:
            for reading in source():
                yield _family(reading, reading.metric.name, {})
                if model_name is not None and reading.metric.vllm_name is not None:
                    yield _family(reading, reading.metric.vllm_name, {"model_name": model_name, "engine": "0"})


def _family(reading: Reading, name: str, more_labels: Mapping[str, str]) -> _Family:
    """One metric's samples; ``more_labels`` are on all of them."""
    metric = reading.metric
    labels = (*more_labels, *metric.labels)
    samples = {(*more_labels.values(), *values): value for values, value in reading.by_labels().items()}
    if metric.kind is Kind.HISTOGRAM:
        histograms = HistogramMetricFamily(name, metric.help, labels=labels)
        for values, value in samples.items():
            assert isinstance(value, Histogram)
            buckets = [(_bound_text(bound), float(num)) for bound, num in value.buckets()]
            histograms.add_metric(values, buckets, value.total)
        return histograms
    family_type = CounterMetricFamily if metric.kind is Kind.COUNTER else GaugeMetricFamily
    family = family_type(name, metric.help, labels=labels)
    for values, value in samples.items():
        assert not isinstance(value, Histogram)
        family.add_metric(values, value)
    return family


def _bound_text(bound: float) -> str:
    return "+Inf" if math.isinf(bound) else str(float(bound))

"""Readings as Prometheus reads them."""

from __future__ import annotations

import math

import pytest
from prometheus_client import generate_latest

from specgrove.telemetry.metrics import Histogram, Kind, Metric, Reading
from specgrove.telemetry.metrics.exposition import VllmNames, make_registry
from tests.telemetry.scraping import samples_of, value

REQUESTS = Metric("things_total", Kind.COUNTER, "Things.", labels=("kind",), vllm_name="vllm:things_total")
WAITING = Metric("things_waiting", Kind.GAUGE, "Waiting.")
TIMES = Metric("thing_seconds", Kind.HISTOGRAM, "Times.", labels=("who",), vllm_name="vllm:thing_seconds")


def test_a_histogram_counts_values_up_to_its_bounds() -> None:
    times = Histogram((0.1, 1.0))
    for seconds, number in ((0.05, 1), (0.1, 2), (0.5, 1), (7.0, 1)):
        times.observe(seconds, number)
    assert times.buckets() == [(0.1, 3), (1.0, 4), (math.inf, 5)]
    assert (times.num, times.total) == (5, pytest.approx(0.05 + 0.2 + 0.5 + 7.0))


def test_readings_are_read_at_each_scrape() -> None:
    counts, times = {("a",): 1.0}, Histogram((0.1, 1.0))
    registry = make_registry(
        "router", [lambda: (Reading(REQUESTS, counts), Reading(WAITING, 3), Reading(TIMES, {("b",): times}))]
    )
    generate_latest(registry)
    counts["a",] = 2.0
    times.observe(0.5)
    samples = samples_of(generate_latest(registry).decode())
    assert value(samples, "things_total", kind="a") == 2
    assert value(samples, "things_waiting") == 3
    buckets = [value(samples, "thing_seconds_bucket", who="b", le=bound) for bound in ("0.1", "1.0", "+Inf")]
    assert buckets == [0, 1, 1]
    assert value(samples, "thing_seconds_sum", who="b") == 0.5
    assert next(labels for name, labels in samples if name == "specgrove_build_info")[0] == ("service", "router")
    assert value(samples, "process_start_time_seconds") > 0


def test_vllms_names_have_vllms_labels_once_the_model_is_known() -> None:
    model: str | None = None
    times = Histogram((0.1,))
    sources = [lambda: (Reading(REQUESTS, {("a",): 1.0}), Reading(WAITING, 3), Reading(TIMES, {("b",): times}))]
    registry = make_registry("router", sources, VllmNames(lambda: model))
    assert "vllm:" not in generate_latest(registry).decode()
    model = "m"
    samples = samples_of(generate_latest(registry).decode())
    assert value(samples, "vllm:things_total", kind="a", model_name="m", engine="0") == 1
    assert value(samples, "vllm:thing_seconds_count", who="b", model_name="m", engine="0") == 0
    assert sum(name.startswith("vllm:things") for name, _ in samples) == 1

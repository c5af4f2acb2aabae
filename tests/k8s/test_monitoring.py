"""The component monitoring: one set of rules for Prometheus with and without its operator, and the same names of jobs."""

from __future__ import annotations

import re
from typing import Any

import pytest
import yaml

from tests.k8s.crds import errors_of
from tools.prometheus_rule import FOLDER, MANIFEST, RULES, manifest_of


def read(name: str) -> dict[str, Any]:
    return yaml.safe_load((FOLDER / name).read_text())  # type: ignore[no-any-return]


def test_the_operators_rules_are_prometheus_own() -> None:
    assert MANIFEST.read_text() == manifest_of(RULES.read_text()), "run 'make prometheus-rule'"
    rule = read("prometheus-rule.yaml")
    assert errors_of(rule) == []
    assert rule["spec"] == read("rules.yml")


def test_pods_are_scraped_under_the_names_of_jobs_that_rules_go_by() -> None:
    monitor = read("pod-monitor.yaml")
    assert errors_of(monitor) == []
    (endpoint,) = monitor["spec"]["podMetricsEndpoints"]
    (job,) = [relabeling for relabeling in endpoint["relabelings"] if relabeling.get("targetLabel") == "job"]
    assert job["sourceLabels"] == ["__meta_kubernetes_pod_label_app_kubernetes_io_component"]
    jobs = {job["replacement"].replace("$1", component) for component in ("router", "llm", "ssm")}
    assert jobs == {config["job_name"] for config in read("prometheus.yml")["scrape_configs"]}


@pytest.mark.parametrize(
    ("component", "ready", "is_scraped"),
    [("llm", "true", True), ("llm", "false", False), ("ssm", "unknown", False), ("ssm", "true", True),
     ("router", "false", True), ("router", "true", True)],
)  # fmt: skip
def test_services_that_load_are_not_scraped_and_so_page_nobody(component: str, ready: str, is_scraped: bool) -> None:
    (endpoint,) = read("pod-monitor.yaml")["spec"]["podMetricsEndpoints"]
    (drop,) = [relabeling for relabeling in endpoint["relabelings"] if relabeling.get("action") == "drop"]
    values = {
        "__meta_kubernetes_pod_label_app_kubernetes_io_component": component, "__meta_kubernetes_pod_ready": ready,
    }  # fmt: skip
    # Prometheus joins the values by semicolons, and matches the whole.
    is_dropped = re.fullmatch(drop["regex"], ";".join(values[label] for label in drop["sourceLabels"]))
    assert (is_dropped is None) is is_scraped

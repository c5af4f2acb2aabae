"""All metrics: their names, the page about them, and what the dashboard and the rules ask for."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml
from prometheus_client import generate_latest

from specgrove.telemetry.metrics import Histogram, Kind, Metric, Reading
from specgrove.telemetry.metrics.exposition import BUILD_INFO, make_registry
from tools.metrics_page import MODULES, PAGE, metrics_of, page_of

ROOT = Path(__file__).parent.parent.parent
MONITORING = ROOT / "k8s" / "components" / "monitoring"
METRICS = list(dict.fromkeys(metric for modules in MODULES.values() for metric in metrics_of(modules)))
# Of vLLM 0.10 and later; which of them mean what is in docs/metrics.md.
VLLM_NAMES = {
    "vllm:num_requests_running", "vllm:num_requests_waiting", "vllm:kv_cache_usage_perc", "vllm:cache_config_info",
    "vllm:request_success_total", "vllm:prompt_tokens_total", "vllm:generation_tokens_total", "vllm:num_preemptions_total",
    "vllm:request_queue_time_seconds", "vllm:time_to_first_token_seconds", "vllm:inter_token_latency_seconds",
    "vllm:e2e_request_latency_seconds", "vllm:iteration_tokens_total", "vllm:spec_decode_num_drafts_total",
    "vllm:spec_decode_num_draft_tokens_total", "vllm:spec_decode_num_accepted_tokens_total",
    "vllm:spec_decode_num_accepted_tokens_per_pos_total", "vllm:prefix_cache_queries_total", "vllm:prefix_cache_hits_total",
}  # fmt: skip


def promtool(*words: str, text: str = "") -> str:
    """What it says; it must be content."""
    program = shutil.which("promtool")
    if program is None:
        pytest.skip("promtool is not here: apt-get install prometheus")
    ended = subprocess.run([program, *words], input=text, capture_output=True, text=True, check=False, timeout=60)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return ended.stdout


def test_names_are_those_of_one_metric_and_tell_kind_and_unit() -> None:
    assert len({metric.name for metric in METRICS}) == len(METRICS)
    for metric in METRICS:
        assert metric.name.startswith("specgrove_")
        assert metric.name.endswith("_total") == (metric.kind is Kind.COUNTER)
        assert metric.help.endswith(".")
        assert not re.search(r"_(ms|min|percent|perc)(_|$)", metric.name), "units are those of Prometheus"


def test_vllms_names_are_vllms() -> None:
    assert {metric.vllm_name for metric in METRICS} - {None} == VLLM_NAMES


def test_promtool_finds_nothing_to_say_of_the_metrics() -> None:
    def reading(metric: Metric) -> Reading:
        value = Histogram((1.0,)) if metric.kind is Kind.HISTOGRAM else 1.0
        return Reading(metric, {tuple("x" for _ in metric.labels): value} if metric.labels else value)

    registry = make_registry("router", [lambda: (reading(metric) for metric in METRICS if metric is not BUILD_INFO)])
    assert promtool("check", "metrics", text=generate_latest(registry).decode()) == ""


def test_the_page_has_them_as_they_are_defined() -> None:
    page = (ROOT / PAGE).read_text()
    assert page_of(page) == page, "run 'make metrics-page'"


def _asked_for() -> dict[str, str]:
    dashboard = json.loads((MONITORING / "dashboard.json").read_text())
    queries = [target["expr"] for panel in dashboard["panels"] for target in panel.get("targets", ())]
    queries += re.findall(r"`([^`]*rate\([^`]*)`", (ROOT / PAGE).read_text().partition("made by")[0])
    for path in (MONITORING.parent / "autoscaling").rglob("*.yaml"):
        spec = yaml.safe_load(path.read_text()).get("spec", {})
        queries += [trigger["metadata"]["query"] for trigger in spec.get("triggers", ())]
    return {query: query for query in queries} | {"rules": (MONITORING / "rules.yml").read_text()}


def test_dashboard_rules_and_page_ask_for_metrics_that_there_are() -> None:
    names = {metric.name for metric in METRICS}
    names |= {f"{m.name}_{part}" for m in METRICS if m.kind is Kind.HISTOGRAM for part in ("bucket", "sum", "count")}
    asked = {name for query in _asked_for().values() for name in re.findall(r"\bspecgrove_[a-z_]+", query)}
    assert asked
    assert asked <= names


def test_promtool_takes_the_rules_the_configuration_and_all_queries(tmp_path: Path) -> None:
    promtool("check", "config", str(MONITORING / "prometheus.yml"))  # with its rules
    promtool("test", "rules", str(MONITORING / "rules_test.yml"))
    queries = [query.replace("$__rate_interval", "5m") for query in _asked_for() if query != "rules"]
    rules = [{"record": f"query:{number}", "expr": query} for number, query in enumerate(queries)]
    (tmp_path / "queries.yml").write_text(json.dumps({"groups": [{"name": "queries", "rules": rules}]}))
    promtool("check", "rules", str(tmp_path / "queries.yml"))

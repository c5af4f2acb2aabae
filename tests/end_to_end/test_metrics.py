"""A real Prometheus scrapes the real services, and its queries find what clients were told."""

from __future__ import annotations

import functools
import json
import math
import re
import shutil
import subprocess
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from specgrove.client import Client
from specgrove.client.output import Usage
from specgrove.loop.request import SpeculationOptions
from specgrove.suite.processes import Suite
from tests.addresses import free_address
from tests.telemetry.scraping import Samples, samples_of, value
from tests.waiting import wait_until

ROOT = Path(__file__).parents[2]
DASHBOARD = json.loads((ROOT / "k8s" / "components" / "monitoring" / "dashboard.json").read_text())
# Series that are not there before something goes wrong, which nothing does here.
OF_FAILURES = {
    "specgrove_router_requests_failed_total": "no request fails",
    "specgrove_router_replica_losses_total": "no replica is lost",
}
TREES = SpeculationOptions(ssms=("itself",), max_num_nodes=4, max_depth=4)


def _fetched(url: str) -> str:
    with urllib.request.urlopen(url, timeout=30) as answer:
        content: bytes = answer.read()
    return content.decode()


class Prometheus:
    """One that runs."""

    def __init__(self, address: str) -> None:
        self._address = address

    def is_up(self) -> bool:
        try:
            return bool(_fetched(f"http://{self._address}/-/ready"))
        except OSError:
            return False

    def query(self, query: str) -> dict[tuple[str, ...], float]:
        """The values by the values of their labels, the instance and the job left aside."""
        words = urllib.parse.urlencode({"query": query})
        found = json.loads(_fetched(f"http://{self._address}/api/v1/query?{words}"))["data"]["result"]
        hidden = ("__name__", "instance", "job")
        return {
            tuple(text for name, text in sorted(series["metric"].items()) if name not in hidden): float(
                series["value"][1]
            )
            for series in found
        }


@pytest.fixture(scope="module")
def prometheus(
    tiny_suite: Suite, metrics_address: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Prometheus]:
    program = shutil.which("prometheus")
    if program is None:
        pytest.skip("Prometheus is not here: apt-get install prometheus")
    folder, address = tmp_path_factory.mktemp("prometheus"), free_address()
    addresses = list(tiny_suite.metrics_addresses().values())
    assert addresses[0] == metrics_address
    jobs = [{"job_name": "specgrove", "static_configs": [{"targets": addresses}]}]
    # What is JSON is YAML.
    (folder / "prometheus.yml").write_text(json.dumps({"global": {"scrape_interval": "200ms"}, "scrape_configs": jobs}))
    words = ["--config.file", "prometheus.yml", "--storage.tsdb.path", "data", "--web.listen-address", address]
    running = subprocess.Popen([program, *words], cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    found = Prometheus(address)
    try:
        wait_until(lambda: running.poll() is not None or found.is_up())
        yield found
    finally:
        running.terminate()
        running.wait()


def _scrapes(suite: Suite) -> dict[str, Samples]:
    return {name: samples_of(_fetched(f"http://{where}/metrics")) for name, where in suite.metrics_addresses().items()}


def _drafted_usages(client: Client) -> list[Usage]:
    """Of requests until a drafted token was accepted: on a busy machine the drafter of a tiny model may come late."""
    usages: list[Usage] = []

    def is_accepted() -> bool:
        usages.append(client.complete("a b a b a b", max_tokens=100, speculation=TREES, ignore_eos=True).usage)
        return sum(usages[-1].accepted_by_depth) > 0

    wait_until(is_accepted)
    return usages


def test_what_prometheus_finds_is_what_clients_were_told(tiny_suite: Suite, prometheus: Prometheus) -> None:
    before = _scrapes(tiny_suite)["router"]
    with Client(tiny_suite.address) as client:
        usages = _drafted_usages(client)
        stats = client.stats()
    expected = {
        "specgrove_router_generation_tokens_total": sum(usage.num_output_tokens for usage in usages),
        "specgrove_router_prompt_tokens_total": sum(usage.num_prompt_tokens for usage in usages),
        "specgrove_router_verify_steps_total": sum(usage.num_verify_steps for usage in usages),
        "specgrove_router_spec_decode_draft_tokens_total": sum(usage.num_drafted_nodes for usage in usages),
        "specgrove_router_spec_decode_accepted_tokens_total": sum(sum(usage.accepted_by_depth) for usage in usages),
    }
    totals = {name: value(before, name) + number for name, number in expected.items()}
    for name, total in totals.items():
        wait_until(lambda name=name, total=total: prometheus.query(name).get(()) == total)  # type: ignore[misc]
        assert prometheus.query(name) == {(): total}
    by_position = prometheus.query("vllm:spec_decode_num_accepted_tokens_per_pos_total")
    assert sum(by_position.values()) == totals["specgrove_router_spec_decode_accepted_tokens_total"]
    assert stats.num_output_tokens == totals["specgrove_router_generation_tokens_total"]
    assert prometheus.query("specgrove_router_replica_up{service='llm_service'}").popitem()[1] == 1
    assert prometheus.query("min(up)") == {(): 1}


def queries_of_the_dashboard() -> list[tuple[str, str]]:
    """Each with its panel's title, as Grafana sends it where all routers are chosen."""
    chosen = {"$instance": ".*", "$__rate_interval": "1m"}
    return [
        (
            panel["title"],
            functools.reduce(lambda query, name: query.replace(name, chosen[name]), chosen, target["expr"]),
        )
        for panel in DASHBOARD["panels"]
        for target in panel.get("targets", ())
    ]


def queries_of_the_autoscalers() -> list[tuple[str, str]]:
    """As KEDA asks them, but for the labels that Prometheus has of Kubernetes alone."""
    found = []
    for path in sorted((ROOT / "k8s" / "components" / "autoscaling").rglob("*.yaml")):
        manifest = yaml.safe_load(path.read_text())
        for trigger in manifest.get("spec", {}).get("triggers", ()):
            query = re.sub(r"\{[^}]*\}", "", trigger["metadata"]["query"])
            found.append((f"{manifest['metadata']['name']}: {trigger['name']}", query))
    assert len(found) > 3
    return found


def queries_of_the_page() -> list[tuple[str, str]]:
    """Those that docs/metrics.md recommends: where a query stands in a table's last column."""
    page = (ROOT / "docs" / "metrics.md").read_text()
    found = re.findall(r"^\| ([^|]+) \| `([^`]*specgrove_[^`]*\[5m\][^`]*)` \|$", page, re.MULTILINE)
    assert len(found) > 3
    return found


def test_each_query_of_dashboard_page_and_autoscalers_finds_data(tiny_suite: Suite, prometheus: Prometheus) -> None:
    left = queries_of_the_dashboard() + queries_of_the_page() + queries_of_the_autoscalers()
    assert len(left) > 40
    with Client(tiny_suite.address) as client:

        def all_have_data() -> bool:
            """A request more; what has had data once counts."""
            client.complete("a b a b a b", max_tokens=100, speculation=TREES, ignore_eos=True)
            left[:] = [(title, query) for title, query in left if not has_data(query)]
            return all(any(name in query for name in OF_FAILURES) for _, query in left)

        def has_data(query: str) -> bool:
            """Of one series at least: a ratio is no number for an SSM that has drafted nothing lately."""
            values = prometheus.query(query).values()
            return any(map(math.isfinite, values)) and not any(map(math.isinf, values))

        try:
            wait_until(all_have_data)
        except TimeoutError:
            pytest.fail(f"no data: {left}")
    # What the dashboard lets its users choose among.
    (chosen,) = [found for found in DASHBOARD["templating"]["list"] if found["name"] == "instance"]
    name = re.fullmatch(r"label_values\((\w+), instance\)", chosen["definition"])
    assert name is not None
    assert prometheus.query(f"count by (instance) ({name[1]})")


def test_the_model_services_tell_of_their_passes_and_slots(tiny_suite: Suite) -> None:
    with Client(tiny_suite.address) as client:
        _drafted_usages(client)
    scraped = _scrapes(tiny_suite)
    llm, ssm = scraped["llm_service"], scraped["ssm_service"]
    assert value(llm, "specgrove_llm_pass_duration_seconds_count") == value(llm, "specgrove_llm_pass_rows_count") > 0
    assert value(llm, "specgrove_llm_pass_rows_sum") >= value(llm, "specgrove_llm_pass_rows_count")
    assert value(llm, "specgrove_llm_kv_slots") == 32768
    labels = {"model_name": str(next(dict(labels)["model_name"] for name, labels in llm if name.startswith("vllm:")))}
    assert value(llm, "vllm:num_requests_waiting", engine="0", **labels) == 0
    assert value(ssm, "specgrove_ssm_drafts_total", ssm="itself") > 0
    assert value(ssm, "specgrove_ssm_pass_duration_seconds_count", ssm="itself") > 0
    assert value(ssm, "specgrove_ssm_drafts_total", ssm="lookup") >= 0
    router = scraped["router"]
    assert 0 <= value(router, "specgrove_router_kv_cache_usage_ratio") < 1
    assert value(router, "specgrove_router_kv_cache_info", block_size="1", num_gpu_blocks="32768") == 1


def test_addresses_of_metrics_are_told_before_anything_is_loaded(
    tmp_path: Path, metrics_address: str, tiny_suite: Suite
) -> None:
    """That of the suite's is taken."""
    from specgrove.suite.processes import SuiteConfig
    from specgrove.suite.supervisor import ProcessFailedError

    config = SuiteConfig(llm_folder=tmp_path, ssms=(), metrics_address=metrics_address)
    with pytest.raises(ProcessFailedError, match="another server does"), Suite(config):
        pass

"""The images run what the overlay `cpu-demo` says, on podman: it answers, and pods that die, come and go cost no token."""

from __future__ import annotations

import concurrent.futures
import contextlib
import json
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import httpx2
import pytest
from prometheus_client.parser import text_string_to_metric_families

from specgrove.client import Client
from specgrove.client.answers import completion_of
from specgrove.client.output import Completion
from specgrove.loop.request import SpeculationOptions
from tests.k8s.manifests import rendered
from tests.k8s.pod_network import pod_network
from tests.k8s.podman_cluster import Cluster, Pod, cluster_of
from tests.waiting import LIMIT_S, wait_until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]  # the first one builds the images, where nobody has before

QUESTION = "Explain how a bicycle stays upright, in detail."
MAX_TOKENS = 160
PARAMS: dict[str, Any] = {
    "max_tokens": MAX_TOKENS,
    "temperature": 0.8,
    "seed": 5,
    "ignore_eos": True,
    "timeout_s": LIMIT_S,
    "speculation": SpeculationOptions(max_num_nodes=6, max_depth=3),
}
# Whether drafting pays differs from machine to machine, and with what else runs there.
MORE_ARGUMENTS = {"router": ("--tree-policy=static",)}


@pytest.fixture(scope="module")
def cluster(podman: Mapping[str, str], demo_llm: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    folder = tmp_path_factory.mktemp("cluster")
    with (
        pod_network(folder) as network,
        cluster_of(rendered("cpu-demo"), network, folder, demo_llm, MORE_ARGUMENTS) as running,
    ):
        yield running
        running.print_logs()  # of a failing test


@pytest.fixture(scope="module")
def expected(cluster: Cluster) -> Completion:
    with Client(cluster.pods["router-0"].at("grpc")) as client:
        return client.complete([("user", QUESTION)], **PARAMS)


def answer_with(router: Pod, events: dict[int, Callable[[], Any]]) -> Completion:
    """A stream, read to its end without trying again; events happen as soon as so many tokens have come, beside it."""
    chunks, num_tokens, happening = [], 0, []
    with Client(router.at("grpc"), retry=None) as client:
        for chunk in client.generate([("user", QUESTION)], **PARAMS):
            chunks.append(chunk)
            num_tokens += len(chunk.tokens)
            for threshold in [threshold for threshold in events if num_tokens >= threshold]:
                assert num_tokens < MAX_TOKENS
                happening.append(threading.Thread(target=events.pop(threshold)))
                happening[-1].start()
    assert not events
    for thread in happening:
        thread.join(LIMIT_S)
        assert not thread.is_alive()
    return completion_of(chunks)


REQUEST = {
    "model": "smollm2-135m-instruct", "messages": [{"role": "user", "content": QUESTION}], "max_tokens": MAX_TOKENS,
    "temperature": 0.8, "seed": 5, "ignore_eos": True,
}  # fmt: skip


def streamed_by_http(router: Pod, has_begun: threading.Event) -> str:
    """The text of a stream of server-sent events."""
    url, pieces = f"http://{router.at('http')}/v1/chat/completions", []
    with httpx2.stream("POST", url, json=REQUEST | {"stream": True}, timeout=LIMIT_S) as answer:
        for line in answer.iter_lines():
            if line.startswith("data: {"):
                choices = json.loads(line.removeprefix("data: "))["choices"]
                pieces += [choice["delta"].get("content") or "" for choice in choices]
                has_begun.set()
    return "".join(pieces)


def test_it_answers_by_grpc_and_by_http(cluster: Cluster, expected: Completion) -> None:
    assert any(token.drafted_by for token in expected.tokens)
    for router in ("router-0", "router-1"):
        url = f"http://{cluster.pods[router].at('http')}/v1/chat/completions"
        answer = httpx2.post(url, json=REQUEST, timeout=LIMIT_S)
        assert answer.status_code == 200, answer.text
        assert answer.json()["choices"][0]["message"]["content"] == expected.text


def test_killed_pods_cost_no_token(cluster: Cluster, expected: Completion) -> None:
    ssm, llm = cluster.pods["ssm-demo-0"], cluster.pods["llm-0"]
    found = answer_with(cluster.pods["router-0"], {10: lambda: cluster.kill(ssm), 40: lambda: cluster.kill(llm)})
    assert (found.token_ids, found.text) == (expected.token_ids, expected.text)
    assert found.usage.num_replays >= 1
    for pod in (ssm, llm):
        wait_until(lambda pod=pod: cluster.num_restarts(pod) == 1 and pod.is_ready())


def num_passes(pod: Pod) -> float:
    """Forward passes that an SSM service has made."""
    text = httpx2.get(f"http://{pod.at('metrics')}/metrics").text
    samples = [sample for family in text_string_to_metric_families(text) for sample in family.samples]
    return sum(sample.value for sample in samples if sample.name == "specgrove_ssm_pass_duration_seconds_count")


def test_a_second_replica_of_an_ssm_gets_work(cluster: Cluster, expected: Completion) -> None:
    second = cluster.start("ssm-demo", 1)

    def has_worked() -> bool:
        assert answer_with(cluster.pods["router-0"], {}).token_ids == expected.token_ids
        return second.is_ready() and num_passes(second) > 0

    with contextlib.ExitStack() as load:  # one session at a time would always find the first one free
        other = Client(cluster.pods["router-0"].at("grpc"))
        stream = load.enter_context(
            contextlib.closing(other.generate([("user", QUESTION)], **PARAMS | {"max_tokens": 4000}))
        )
        load.callback(other.close)
        next(stream)
        wait_until(has_worked)


def test_a_rolling_update_of_the_llm_drops_no_stream(cluster: Cluster, expected: Completion) -> None:
    exit_codes: list[int] = []

    def roll() -> None:
        exit_codes.append(cluster.delete(cluster.pods["llm-0"]))
        cluster.start("llm", 0)

    found = answer_with(cluster.pods["router-0"], {10: roll})
    assert (found.token_ids, found.text) == (expected.token_ids, expected.text)
    assert exit_codes == [0]


def test_a_rolling_update_of_the_routers_drops_no_stream(cluster: Cluster, expected: Completion) -> None:
    """The new one comes first, as the Deployment says. There is a stream by gRPC and one by HTTP."""
    old, new = cluster.pods["router-1"], cluster.start("router", 2)
    wait_until(new.is_ready)
    exit_codes: list[int] = []
    has_begun = threading.Event()

    def roll() -> None:
        assert has_begun.wait(LIMIT_S)
        exit_codes.append(cluster.delete(old))

    with concurrent.futures.ThreadPoolExecutor() as pool:
        by_http = pool.submit(streamed_by_http, old, has_begun)
        found = answer_with(old, {10: roll})
        assert by_http.result(LIMIT_S) == expected.text
    assert (found.token_ids, found.text) == (expected.token_ids, expected.text)
    assert exit_codes == [0]
    assert answer_with(new, {}).text == expected.text

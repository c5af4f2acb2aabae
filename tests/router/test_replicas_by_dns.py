"""LLM services found by DNS: they come, drain, leave and are lost, while outputs stay what they are."""

from __future__ import annotations

import asyncio
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from router import app, llm_replica, llm_replicas, replica_stats
from router.llm_replica import LlmReplica
from specgrove.v1 import llm_pb2
from tests.certificates import Authority
from tests.router.generating import PROMPT, request_of, responses_to, token_ids_of
from tests.router.toy_cluster import ToyCluster, toy_cluster
from tests.router.toy_language import toy_output
from tests.router.toy_services import ToyLlm, halting_llm
from tests.waiting import LIMIT_S, until

A, B, C = "127.0.0.2", "127.0.0.3", "127.0.0.4"
NOT_DRAFTED = {"disabled": True}


class SilentLlm(ToyLlm):
    """Does not say how busy it is."""

    def __init__(self) -> None:
        super().__init__()
        self.num_asked = 0

    async def GetLoad(self, request: Any, context: Any) -> llm_pb2.LlmServiceGetLoadResponse:  # noqa: N802
        self.num_asked += 1
        await asyncio.Event().wait()
        raise NotImplementedError


def num_sessions(cluster: ToyCluster, host: str) -> int:
    replica = cluster.llm_replica(host)
    return 0 if replica is None else len(replica.session_lens)


def is_connected(replica: LlmReplica | None) -> bool:
    return replica is not None and replica.client.connected.is_set()


async def generated(cluster: ToyCluster, max_tokens: int) -> list[int]:
    request = request_of(max_tokens=max_tokens, speculation=NOT_DRAFTED)
    return token_ids_of(await responses_to(cluster, request))


async def looked_up_again(cluster: ToyCluster) -> None:
    """Twice: the first of them may have been under way."""
    num_asked = cluster.dns.num_asked["llm"] + 2
    await until(lambda: cluster.dns.num_asked["llm"] >= num_asked)


async def test_a_router_waits_for_a_name_and_a_second_replica_gets_work() -> None:
    async with toy_cluster(ssm_addresses=()) as cluster:
        await looked_up_again(cluster)
        assert len(cluster.app.llms.replicas) == 0
        await cluster.add_llm(A, halting_llm(3))
        await until(lambda: cluster.takes_sessions(A))
        first = asyncio.create_task(generated(cluster, 40))
        await until(lambda: num_sessions(cluster, A) == 1)
        second_llm = await cluster.add_llm(B, ToyLlm())
        await until(lambda: cluster.takes_sessions(B))
        assert await generated(cluster, 40) == toy_output(PROMPT, 40)
        assert second_llm.num_verified == 40
        await cluster.llm_server(A).stop(0)
        assert await first == toy_output(PROMPT, 40)


async def test_the_stream_of_a_lost_replica_goes_on_at_another_that_comes_later() -> None:
    async with toy_cluster(ssm_addresses=()) as cluster:
        lost = await cluster.add_llm(A, halting_llm(10))
        await until(lambda: cluster.takes_sessions(A))
        generating = asyncio.create_task(generated(cluster, 100))
        await until(lambda: lost.num_verified == 10)
        cluster.dns.answers["llm"] = None
        await cluster.llm_server(A).stop(0)
        await looked_up_again(cluster)
        assert cluster.llm_replica(A) is not None
        other = await cluster.add_llm(B, ToyLlm())
        assert await generating == toy_output(PROMPT, 100)
        assert other.num_verified > 0
        await until(lambda: cluster.llm_replica(A) is None)


async def test_a_draining_replica_keeps_its_sessions_and_gets_no_new_ones() -> None:
    async with toy_cluster(ssm_addresses=()) as cluster:
        draining = await cluster.add_llm(A, halting_llm(5))
        await until(lambda: cluster.takes_sessions(A))
        first = asyncio.create_task(generated(cluster, 30))
        await until(lambda: draining.num_verified == 5)
        other = await cluster.add_llm(B, ToyLlm())
        await until(lambda: cluster.takes_sessions(B))
        cluster.llm_server(A).health.set_serving(False)
        await until(lambda: not cluster.takes_sessions(A))
        for _ in range(3):
            assert await generated(cluster, 10) == toy_output(PROMPT, 10)
        assert other.num_verified == 30
        # It has left DNS, too, and stays as long as its session needs it.
        cluster.dns.remove("llm", A)
        await looked_up_again(cluster)
        draining.gate.set()
        assert await first == toy_output(PROMPT, 30)
        assert draining.num_verified == 30
        await until(lambda: cluster.llm_replica(A) is None)


async def test_a_replica_that_serves_again_gets_work_again() -> None:
    async with toy_cluster(ssm_addresses=()) as cluster:
        llm = await cluster.add_llm(A, ToyLlm())
        await until(lambda: cluster.takes_sessions(A))
        cluster.llm_server(A).health.set_serving(False)
        await until(lambda: not cluster.app.llms.is_usable)
        generating = asyncio.create_task(generated(cluster, 20))
        await until(lambda: cluster.app.admission.num_active == 1)
        assert llm.num_verified == 0
        cluster.llm_server(A).health.set_serving(True)
        assert await generating == toy_output(PROMPT, 20)


async def test_a_replica_that_is_not_ready_is_never_asked() -> None:
    """Its Service publishes it all the same."""
    async with toy_cluster(ssm_addresses=()) as cluster:
        await cluster.add_llm(A, ToyLlm())
        cluster.llm_server(A).health.set_serving(False)
        await until(lambda: is_connected(cluster.llm_replica(A)))
        assert not cluster.takes_sessions(A)
        assert not cluster.app.llms.is_usable
        cluster.llm_server(A).health.set_serving(True)
        await until(lambda: cluster.app.llms.is_usable)


async def test_a_dns_that_fails_costs_nothing() -> None:
    async with toy_cluster(ssm_addresses=()) as cluster:
        llm = await cluster.add_llm(A, ToyLlm())
        await until(lambda: cluster.takes_sessions(A))
        for answer in (None, ()):
            cluster.dns.answers["llm"] = answer
            await looked_up_again(cluster)
            assert await generated(cluster, 20) == toy_output(PROMPT, 20)
        # Nor does it while the service is away: it comes back where it was.
        await cluster.llm_server(A).stop(0)
        await until(lambda: not cluster.app.llms.is_usable)
        await looked_up_again(cluster)
        generating = asyncio.create_task(generated(cluster, 20))
        await cluster.add_llm(A, ToyLlm())
        cluster.dns.answers["llm"] = None
        assert await generating == toy_output(PROMPT, 20)
        assert llm.num_verified == 40


async def test_who_left_dns_and_serves_is_used_still() -> None:
    async with toy_cluster(ssm_addresses=()) as cluster:
        first = await cluster.add_llm(A, ToyLlm())
        await until(lambda: cluster.takes_sessions(A))
        await cluster.add_llm(B, halting_llm(0))
        await until(lambda: cluster.takes_sessions(B))
        cluster.dns.remove("llm", A)
        await looked_up_again(cluster)
        cluster.llm_server(B).health.set_serving(False)
        await until(lambda: not cluster.takes_sessions(B))
        assert await generated(cluster, 20) == toy_output(PROMPT, 20)
        assert first.num_verified == 20


def other_bits() -> ToyLlm:
    llm = ToyLlm()
    llm.numerics = ["weights toy", "cpu other"]
    return llm


async def updated_to_other_bits(cluster: ToyCluster) -> None:
    """As a rolling update does it: the new one comes, and the old one goes."""
    await cluster.add_llm(B, other_bits())
    await until(lambda: (replica := cluster.llm_replica(B)) is not None and replica.refusal is not None)
    cluster.dns.remove("llm", A)
    await cluster.llm_server(A).stop(0)
    await until(lambda: cluster.llm_replica(A) is None)


async def test_a_router_whose_model_has_gone_for_good_ends() -> None:
    async with toy_cluster(ssm_addresses=()) as cluster:
        await cluster.add_llm(A, ToyLlm())
        await until(lambda: cluster.app.health.is_serving)
        await updated_to_other_bits(cluster)
        with pytest.raises(RuntimeError, match="no LLM service of its model is left: its outputs may have other bits"):
            await asyncio.wait_for(cluster.running, LIMIT_S)


async def test_it_stays_for_a_request_that_waits_and_for_a_service_that_may_come_back(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(app, "_LOOK_S", 0.001)
    async with toy_cluster(ssm_addresses=()) as cluster:
        llm = await cluster.add_llm(A, halting_llm(5))
        await until(lambda: cluster.app.health.is_serving)
        generating = asyncio.create_task(generated(cluster, 30))
        await until(lambda: llm.num_verified == 5)
        await updated_to_other_bits(cluster)
        await looked_up_again(cluster)
        assert not cluster.running.done()
        await cluster.add_llm(C, ToyLlm())
        assert await generating == toy_output(PROMPT, 30)
        await cluster.llm_server(C).stop(0)
        await until(lambda: not cluster.app.health.is_serving)
        await looked_up_again(cluster)
        assert not cluster.running.done()


async def test_no_request_makes_it_stay_for_longer_than_it_waits_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(app, "_LOOK_S", 0.001)
    async with toy_cluster(ssm_addresses=(), replica_wait_s=0.05) as cluster:
        await cluster.add_llm(A, halting_llm(5))
        await until(lambda: cluster.app.health.is_serving)
        async with cluster.app.admission.permit():
            await updated_to_other_bits(cluster)
            with pytest.raises(RuntimeError, match="no LLM service of its model is left"):
                await asyncio.wait_for(cluster.running, LIMIT_S)


async def test_certificates_are_for_the_name_that_was_looked_up(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    authority = Authority(tmp_path / "ca.pem")
    of_llm, of_other = (authority.issue(tmp_path, name, f"DNS:{name}") for name in ("llm", "other"))
    files = authority.issue(tmp_path, "router", "DNS:router")
    async with toy_cluster(ssm_addresses=(), services_tls=files) as cluster:
        await cluster.add_llm(A, ToyLlm(), of_llm)
        await cluster.add_llm(B, ToyLlm(), of_other)
        await until(lambda: cluster.takes_sessions(A))
        told = f"{B}:{cluster.llm_port}: not connected yet: TLS: its certificate is not for llm"
        await until(lambda: told in caplog.text)
        assert await generated(cluster, 20) == toy_output(PROMPT, 20)


async def test_a_replica_that_is_dropped_while_it_is_asked_ends_nobody_elses_asking(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Neither the signs of life that others are asked for, nor what metrics ask."""
    monkeypatch.setattr(llm_replica, "_PROBE_TIMEOUT_S", LIMIT_S)
    monkeypatch.setattr(replica_stats, "_TIMEOUT_S", LIMIT_S)
    monkeypatch.setattr(llm_replicas, "_PROBE_INTERVAL_S", 0.01)
    async with toy_cluster(ssm_addresses=()) as cluster:
        silent, num_probes = SilentLlm(), Counter[str]()
        probe = LlmReplica.probe

        async def counted(replica: LlmReplica) -> None:
            num_probes[replica.client.address] += 1
            await probe(replica)

        monkeypatch.setattr(LlmReplica, "probe", counted)
        await cluster.add_llm(A, silent)
        for host in (B, C):
            await cluster.add_llm(host, ToyLlm())
        await until(lambda: all(map(cluster.takes_sessions, (A, B, C))) and silent.num_asked > 0)
        asking = asyncio.create_task(replica_stats.ReplicaStats(cluster.app.llms, cluster.app.ssms).refresh())
        await until(lambda: silent.num_asked > 1)
        cluster.llm_server(A).health.set_serving(False)
        cluster.dns.remove("llm", A)
        await until(lambda: cluster.llm_replica(A) is None)
        await asking
        num_before = num_probes[f"{B}:{cluster.llm_port}"]
        await until(lambda: num_probes[f"{B}:{cluster.llm_port}"] > num_before)

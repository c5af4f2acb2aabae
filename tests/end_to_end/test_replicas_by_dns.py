"""Real services that a router finds by DNS: a second replica of each comes, the first ones die, and the outputs are those of one suite."""

from __future__ import annotations

import asyncio
import contextlib
import os
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from specgrove.suite import supervised, supervisor
from specgrove.suite.processes import Suite
from tests.end_to_end.sick_services import FOLDER_VARIABLE, ROOT
from tests.end_to_end.stories import stories
from tests.router.toy_cluster import ToyCluster, toy_cluster
from tests.waiting import LIMIT_S, until

A, B = "127.0.0.2", "127.0.0.3"
NUM_STORIES, MAX_TOKENS = 4, 120


@contextlib.asynccontextmanager
async def running(*words: str, illnesses: Path | None = None) -> AsyncIterator[subprocess.Popen[str]]:
    """``python -m WORDS``, forked; one that may fall ill with ``illnesses``. Killed at the end."""
    module = ("tests.end_to_end.sick_services",) if illnesses is not None else ()
    command = [sys.executable, "-m", supervised.__name__, str(os.getpid()), *module, *words]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(ROOT))
        patch.setenv(FOLDER_VARIABLE, str(illnesses))
        process = supervisor.subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert process.stdout is not None
    # Read all the time: a pipe that nobody reads fills up, and blocks the process.
    reading = asyncio.create_task(asyncio.to_thread(process.stdout.read))
    try:
        yield process
    finally:
        process.kill()
        await asyncio.to_thread(process.wait)
        print(await reading)


def have_come(cluster: ToyCluster, host: str) -> bool:
    """Both services."""
    return cluster.ssm_replica(host) is not None and cluster.takes_sessions(host)


def llm_words(cluster: ToyCluster, host: str, model: Path) -> tuple[str, ...]:
    options = f"--address {host}:{cluster.llm_port} --dtype float32 --threads 1 --kv-slots 8192 --model"
    return ("llm_service", *options.split(), str(model))


def ssm_words(cluster: ToyCluster, host: str) -> tuple[str, ...]:
    return ("ssm_service", *f"--address {host}:{cluster.ssm_port} --ssm lookup --threads 1".split())


@pytest.fixture(scope="module")
def expected(tiny_suite: Suite) -> list[tuple[int, ...]]:
    """What a suite of one process each gives."""
    return [completion.token_ids for completion in asyncio.run(stories(tiny_suite.address, NUM_STORIES, MAX_TOKENS))]


async def test_replicas_come_and_die_and_no_token_is_lost(
    expected: list[tuple[int, ...]], tiny_model: Path, tmp_path: Path
) -> None:
    async with toy_cluster() as cluster, contextlib.AsyncExitStack() as stack:
        cluster.dns.answers |= {"llm": (A,), "ssm": (A,)}
        first = await stack.enter_async_context(running(*llm_words(cluster, A, tiny_model), illnesses=tmp_path))
        first_ssm = await stack.enter_async_context(running(*ssm_words(cluster, A), illnesses=tmp_path))
        await until(lambda: have_come(cluster, A))
        cluster.dns.answers |= {"llm": (A, B), "ssm": (A, B)}
        await stack.enter_async_context(running(*llm_words(cluster, B, tiny_model)))
        await stack.enter_async_context(running(*ssm_words(cluster, B)))
        await until(lambda: have_come(cluster, B))

        (tmp_path / "llm_service").write_text("20 dies")
        (tmp_path / "ssm_service").write_text("10 dies")
        found = await stories(cluster.address, NUM_STORIES, MAX_TOKENS)
        assert [completion.token_ids for completion in found] == expected
        assert sum(completion.usage.num_replays for completion in found) >= 1
        async with asyncio.timeout(LIMIT_S):
            ends = [await asyncio.to_thread(process.wait) for process in (first, first_ssm)]
        assert ends == [9, 9]

        cluster.dns.answers |= {"llm": (B,), "ssm": (B,)}
        await until(lambda: cluster.llm_replica(A) is None and cluster.ssm_replica(A) is None)
        ssm = cluster.ssm_replica(B)
        assert ssm is not None
        num_drafts = ssm.client.num_items
        assert [
            completion.token_ids for completion in await stories(cluster.address, NUM_STORIES, MAX_TOKENS)
        ] == expected
        assert ssm.client.num_items > num_drafts

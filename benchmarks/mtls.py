"""What mTLS adds to a verification's round trip between router and LLM service, without a model.

    python -m benchmarks.mtls --rounds 20

Two servers that answer at once, one in clear and one by mTLS, and the router's client for each, over TCP in one process: the work of both
ends counts. They take turns. Printed are medians for one verification, and the median of the rounds' differences with its quartiles.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from specgrove.addresses import ReplicaAddress
from specgrove.serving.health import Health
from specgrove.serving.mailbox import Answer
from specgrove.serving.replica_channel import ServicesTls
from specgrove.serving.served_stream import StreamItem
from specgrove.serving.server import Server
from specgrove.serving.work_stream_client import WorkStreamClient
from specgrove.serving.work_streams import WorkStreams
from specgrove.v1 import llm_pb2, llm_pb2_grpc
from tests.certificates import make_certificates

_NUM_CALLS = 400
_BATCHES = (1, 16)
_NUM_NODES = 32

Client = WorkStreamClient[llm_pb2.VerifyItem, llm_pb2.VerifyResult]


class InstantLlm(llm_pb2_grpc.LlmServiceServicer):
    """Accepts two tokens of every tree, and adds one."""

    def __init__(self) -> None:
        self.streams: WorkStreams[llm_pb2.VerifyItem, llm_pb2.Verdict, llm_pb2.VerifyResult, llm_pb2.VerifyResponse] = (
            WorkStreams(
                self._begin,
                lambda item, verdict: llm_pb2.VerifyResult(
                    session_id=item.session_id, item_id=item.item_id, verdict=verdict
                ),
                llm_pb2.VerifyResult,
                llm_pb2.VerifyResponse,
                forget=lambda session_id: None,
            )
        )

    def _begin(self, item: StreamItem[llm_pb2.VerifyItem, llm_pb2.Verdict, llm_pb2.VerifyResult]) -> None:
        verdict = llm_pb2.Verdict(base=item.message.base, token_ids=[1, 2, 3])
        item.stream.take([Answer(item, verdict, is_last=True)])

    async def Verify(self, request_iterator: Any, context: Any) -> AsyncIterator[llm_pb2.VerifyResponse]:  # noqa: N802
        """As the real one's."""
        async for response in self.streams.serve(request_iterator, context):
            yield response


def item_of(number: int) -> llm_pb2.VerifyItem:
    """With a tree of the size that the router asks for by default."""
    item = llm_pb2.VerifyItem(session_id=f"{number:032x}", base=1000, new_token_ids=[7, 8, 9])
    item.tree.token_ids.extend(range(20_000, 20_000 + _NUM_NODES))
    item.tree.parents.extend(range(-1, _NUM_NODES - 1))
    return item


async def costs_us(client: Client, num_at_once: int) -> tuple[float, float]:
    """Time and processor time of one verification, with so many under way."""

    async def ask(number: int) -> None:
        for _ in range(_NUM_CALLS // num_at_once):
            sent = client.send(item_of(number))
            await sent.take()
            sent.drop()

    started_s, started_cpu_s = time.perf_counter(), time.process_time()
    await asyncio.gather(*map(ask, range(num_at_once)))
    cpu_s, elapsed_s = time.process_time() - started_cpu_s, time.perf_counter() - started_s
    return elapsed_s / _NUM_CALLS * 1e6, cpu_s / _NUM_CALLS * 1e6


async def measure(num_rounds: int, folder: Path) -> None:
    """Prints a line for each number of verifications at once."""
    certificates = make_certificates(folder)
    servers, clients = [], []
    for server_tls, tls in ((None, None), (certificates.server, ServicesTls(certificates.client))):
        servicer = InstantLlm()  # type: ignore[abstract]  # what it hasn't is never called
        server = Server(
            "127.0.0.1:0",
            lambda server, servicer=servicer: llm_pb2_grpc.add_LlmServiceServicer_to_server(servicer, server),  # type: ignore[misc]
            health=Health(()),
            tls=server_tls,
        )
        address = ReplicaAddress(await server.start())
        client = Client(
            address, lambda channel: llm_pb2_grpc.LlmServiceStub(channel).Verify(), llm_pb2.VerifyRequest, tls=tls
        )
        client.start()
        await client.connected.wait()
        servers.append(server)
        clients.append(client)
    for num_at_once in _BATCHES:
        costs: list[list[tuple[float, float]]] = [[], []]
        for number in range(num_rounds + 1):
            for place in (0, 1) if number % 2 else (1, 0):
                found_us = await costs_us(clients[place], num_at_once)
                if number:  # the first warms up
                    costs[place].append(found_us)
        for what, clear_us, mtls_us in zip(
            ("time", "processor time"), zip(*costs[0], strict=True), zip(*costs[1], strict=True), strict=True
        ):
            added_us = [mtls - clear for clear, mtls in zip(clear_us, mtls_us, strict=True)]
            low, middle, high = statistics.quantiles(added_us, n=4)
            print(
                f"{num_at_once:2d} at once, {what}: in clear {statistics.median(clear_us):.0f} us, by mTLS "
                f"{statistics.median(mtls_us):.0f} us; added {middle:.0f} us ({low:.0f} to {high:.0f})"
            )
    for client in clients:
        await client.close()
    for server in servers:
        await server.stop(0)


def main() -> int:
    """Exit code 0."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.mtls", description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=20)
    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(measure(parser.parse_args().rounds, Path(folder)))
    return 0


if __name__ == "__main__":
    sys.exit(main())

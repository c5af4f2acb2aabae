"""Services killed in mid-stream, clients that leave, and limits: no token is lost or repeated, no KV slot is leaked."""

from __future__ import annotations

import subprocess
import sys

import grpc
import pytest

from specgrove.client import Client
from specgrove.client.answers import completion_of
from specgrove.client.retries import RetryPolicy
from specgrove.errors import DeadlineExceededError, UnavailableError
from specgrove.loop.request import SpeculationOptions
from specgrove.suite.processes import Suite
from specgrove.suite.readiness import is_serving
from specgrove.v1 import llm_pb2, llm_pb2_grpc, ssm_pb2, ssm_pb2_grpc
from tests.end_to_end.kills import kill
from tests.waiting import wait_until

QUESTION = [("user", "Explain how a bicycle stays upright, in detail.")]
LONG_QUESTION = [
    ("user", "Explain how this stays upright: " + "a bicycle has two wheels, a frame, a chain and a saddle; " * 20)
]
SPECULATION = SpeculationOptions(max_num_nodes=6, max_depth=3)
MAX_TOKENS = 64


def slots_in_use(suite: Suite) -> tuple[int, int]:
    """Of the LLM and of the SSM service."""
    with grpc.insecure_channel(suite.address_of("llm_service")) as channel:
        llm = llm_pb2_grpc.LlmServiceStub(channel).GetLoad(llm_pb2.LlmServiceGetLoadRequest()).load
    with grpc.insecure_channel(suite.address_of("ssm_service")) as channel:
        ssm = ssm_pb2_grpc.SsmServiceStub(channel).GetLoad(ssm_pb2.SsmServiceGetLoadRequest()).load
    return llm.num_slots - llm.num_free_slots, ssm.num_slots - ssm.num_free_slots


# In `make test` test_chaos.py kills all of them, and compares the outputs.
@pytest.mark.slow
def test_killed_services_cost_time_but_no_token(suite: Suite, client: Client) -> None:
    """A replay reads all in several passes, and tells the router how far it is before it verifies the tree that it was sent."""
    params = {"max_tokens": MAX_TOKENS, "temperature": 0.8, "seed": 5, "ignore_eos": True}
    expected = client.complete(LONG_QUESTION, speculation=SPECULATION, **params)
    restarts = {service: suite.num_restarts(service) for service in ("ssm_service", "llm_service")}
    token_ids: list[int] = []
    text, usage, victims = "", None, {25: "llm_service", 45: "ssm_service"}
    for chunk in client.generate(LONG_QUESTION, speculation=SPECULATION, prompt_progress=True, **params):
        token_ids.extend(token.token_id for token in chunk.tokens)
        text += chunk.text
        usage = chunk.usage or usage
        for threshold in [threshold for threshold in victims if len(token_ids) >= threshold]:
            kill(suite, victims.pop(threshold))
    assert not victims
    assert token_ids == list(expected.token_ids)
    assert text == expected.text
    assert usage is not None
    assert usage.num_replays >= 1
    assert suite.num_restarts("llm_service") == restarts["llm_service"] + 1
    wait_until(lambda: suite.num_restarts("ssm_service") == restarts["ssm_service"] + 1)
    # Both are back: drafted tokens are accepted again.

    def is_drafted() -> bool:
        again = client.complete(LONG_QUESTION, speculation=SPECULATION, **params)
        assert again.token_ids == expected.token_ids
        return any(token.drafted_by for token in again.tokens)

    wait_until(is_drafted)


def test_cancelled_requests_give_their_slots_back(suite: Suite, client: Client) -> None:
    wait_until(lambda: slots_in_use(suite) == (0, 0))
    stream = client.generate(QUESTION, max_tokens=500, ignore_eos=True, speculation=SPECULATION)
    for _ in range(4):
        next(stream)
    assert slots_in_use(suite)[0] > 0
    stream.close()
    wait_until(lambda: slots_in_use(suite) == (0, 0))


def test_a_passed_deadline_gives_the_slots_back(suite: Suite, client: Client) -> None:
    with pytest.raises(DeadlineExceededError):
        client.complete(QUESTION, max_tokens=500, ignore_eos=True, timeout_s=1.0, speculation=SPECULATION)
    wait_until(lambda: slots_in_use(suite) == (0, 0))


def test_a_vanished_client_gives_the_slots_back(suite: Suite) -> None:
    program = (
        "from specgrove.client import Client\n"
        f"for chunk in Client({suite.address!r}).generate({QUESTION!r}, max_tokens=500, ignore_eos=True): pass"
    )
    child = subprocess.Popen([sys.executable, "-c", program])
    try:
        wait_until(lambda: slots_in_use(suite)[0] > 0)
    finally:
        child.kill()
        child.wait()
    wait_until(lambda: slots_in_use(suite) == (0, 0))


def test_a_killed_router_leaves_no_session_behind(suite: Suite) -> None:
    """Nobody can close what it had opened: the services notice that its streams have ended."""
    wait_until(lambda: slots_in_use(suite) == (0, 0))
    with Client(suite.address, retry=None) as client:
        stream = client.generate(QUESTION, max_tokens=500, ignore_eos=True, speculation=SPECULATION)
        for _ in range(4):
            next(stream)
        assert slots_in_use(suite)[0] > 0
        kill_router(suite)
        with pytest.raises(UnavailableError):
            list(stream)
    wait_until(lambda: slots_in_use(suite) == (0, 0))
    wait_until(lambda: is_serving(suite.address))


def test_a_clients_output_goes_on_where_a_killed_router_left_it(suite: Suite) -> None:
    params = {"max_tokens": MAX_TOKENS, "temperature": 0.8, "ignore_eos": True, "speculation": SPECULATION}
    with Client(suite.address, retry=RetryPolicy(max_num_retries=1000, max_delay_s=0.5)) as client:
        stream = client.generate(QUESTION, **params)
        chunks = [next(stream) for _ in range(4)]
        kill_router(suite)
        completion = completion_of([*chunks, *stream])
        assert len(completion.token_ids) == MAX_TOKENS
        assert client.complete(QUESTION, seed=completion.usage.seed, **params).token_ids == completion.token_ids


def kill_router(suite: Suite) -> None:
    kill(suite, "router")

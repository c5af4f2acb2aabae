"""What a visitor asks of the router by the page has the limits of the key that opened it: all the way, with Gradio's own process."""

from __future__ import annotations

import asyncio
import importlib.util
import json
from pathlib import Path
from typing import Any

import httpx
import pytest

from router.config import HttpConfig
from router.key_limits import KEY_REQUESTS, KEY_TOKENS
from specgrove.serving.api_keys import ApiKeys
from specgrove.serving.key_file import ApiKey, hash_of
from specgrove.web.conversation import ChatOptions
from tests.router.http.asking import http_address
from tests.router.toy_suite import ToySuite, toy_suite
from tests.waiting import LIMIT_S

if importlib.util.find_spec("gradio") is None:  # to import it takes seconds, and this process needs none of it
    pytest.skip("the chat page needs Gradio", allow_module_level=True)


def _counted(suite: ToySuite) -> dict[Any, Any]:
    return {reading.metric: reading.by_labels() for reading in suite.app._servicer.key_limits.readings()}


async def _pressed(browser: httpx.AsyncClient, button: str, question: str) -> str:
    """All that Gradio's server says of an event, as a browser asks for it."""
    config = (await browser.get("/config")).json()
    components = {component["id"]: component.get("props", {}) for component in config["components"]}
    (event,) = [
        event
        for event in config["dependencies"]
        if event["queue"] is not False
        and any(components.get(target[0], {}).get("elem_id") == button for target in event["targets"])
    ]
    shown = (components[number].get("value") for number in event["inputs"])
    values = [8 if value == ChatOptions().max_tokens else value for value in shown]  # more than the toy's context holds
    values[1] = question
    body = {"data": values, "fn_index": event["id"], "session_hash": "visitor", "trigger_id": None}
    (await browser.post("/gradio_api/queue/join", json=body)).raise_for_status()
    said = []
    async with browser.stream("GET", "/gradio_api/queue/data", params={"session_hash": "visitor"}) as events:
        async for line in events.aiter_lines():
            said.append(line)
            if line.startswith("data: ") and json.loads(line[6:])["msg"] in ("process_completed", "close_stream"):
                break
    return "\n".join(said)


async def test_a_question_counts_as_the_keys_that_opened_the_page(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Beside other tests' processes it would start for minutes.
    monkeypatch.setattr("router.http.page_process.lower_priority", lambda pid: None)
    keys = ApiKeys([ApiKey(name, hash_of(f"{name}-key"), 1, 10_000) for name in ("alice", "bob")])
    local = f"unix:{tmp_path}/local.sock"
    async with toy_suite(api_keys=keys, http=HttpConfig("127.0.0.1:0"), local_address=local) as suite:
        url = f"http://{http_address(suite)}"
        async with httpx.AsyncClient(base_url=url, auth=("me", "bob-key"), timeout=LIMIT_S, trust_env=False) as browser:
            async with asyncio.timeout(LIMIT_S):
                while (await browser.get("/", headers={"accept": "text/html"})).status_code == 503:  # noqa: ASYNC110  it is asked
                    await asyncio.sleep(0.2)
                for number, button in enumerate(("send", "compare"), 1):
                    said = await _pressed(browser, button, "hi")
                    assert _counted(suite)[KEY_REQUESTS] == {("bob",): {1: 1, 2: 3}[number]}, said
        assert _counted(suite)[KEY_TOKENS][("bob", "output")] > 0

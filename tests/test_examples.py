"""The gRPC example runs as it stands, and docs/clients.md shows exactly that."""

from __future__ import annotations

import asyncio
import builtins
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import cast

import pytest
from prometheus_client import CollectorRegistry

from router.__main__ import config_of
from router.config import RouterConfig
from router.http.app import ApiSettings, make_app
from router.http.bodies import ChatBody, CompletionBody, DetokenizeBody, StreamOptions, TokenizeBody
from router.http.calls import RouterCalls
from router.http.metrics import MetricsEndpoint
from router.http.refused import REFUSED
from router.http.response_counts import ResponseCounts
from specgrove import errors
from specgrove.cli.arguments import parser
from specgrove.client.wire import GenerateParams
from specgrove.settings import SECTIONS, SUITE
from tests.fake_router import running_router

ROOT = Path(__file__).parent.parent


def test_grpc_example_streams(tmp_path: Path) -> None:
    with running_router(tmp_path) as (fake, address):
        ended = subprocess.run(
            [sys.executable, "examples/stream.py", address],
            cwd=ROOT,
            env=os.environ | {"PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            check=True,
        )
    assert ended.stdout == "The quick brown fox\n"
    assert fake.requests[0].chat.messages[0].content == "Why is the sky blue?"


@pytest.mark.parametrize(("name", "page"), [("stream", "clients"), ("openai_chat", "http")])
def test_a_page_shows_the_example(name: str, page: str) -> None:
    example = (ROOT / "examples" / f"{name}.py").read_text().partition('"""\n\n')[2]
    assert f"```python\n{example}```" in (ROOT / "docs" / f"{page}.md").read_text()


def test_the_http_page_names_all_fields() -> None:
    page = (ROOT / "docs" / "http.md").read_text()
    bodies = (CompletionBody, ChatBody, TokenizeBody, DetokenizeBody, StreamOptions)
    names = {*REFUSED, *(name for body in bodies for name in body.model_fields)}
    assert not {name for name in names if f"`{name}`" not in page}
    metrics = MetricsEndpoint(CollectorRegistry(), lambda: asyncio.sleep(0))
    app = make_app(cast(RouterCalls, None), ApiSettings(1), "0", metrics, ResponseCounts())
    assert not {path for path in app.openapi()["paths"] if f"`{path}`" not in page}


def test_the_clients_page_names_all_parameters_errors_and_limits() -> None:
    page = (ROOT / "docs" / "clients.md").read_text()
    assert not {name for name in GenerateParams.__optional_keys__ if f"`{name}" not in page}
    limits = RouterConfig(llm_addresses=())
    for flag in re.findall(r"`(--[a-z-]+)`", page):
        assert config_of(["--llm", "localhost:1", flag, "7"]) != limits
    assert f"| {limits.max_num_requests}, {limits.max_num_queued} |" in page
    assert f"| {limits.max_request_bytes >> 20} MiB |" in page
    assert f"| {limits.reader_timeout_s:g} |" in page
    for name in re.findall(r"`([A-Za-z]+Error)`", page):
        assert hasattr(builtins, name) or issubclass(getattr(errors, name), errors.SpecGroveError)


def test_the_operations_page_names_flags_that_there_are_with_their_defaults() -> None:
    page = (ROOT / "docs" / "operations.md").read_text()
    commands = [parser().parse_args(words) for words in (["serve"], ["generate", "hi"], ["key", "alice"])]
    known = {f"--{name.replace('_', '-')}" for command in commands for name in vars(command)}
    known |= {setting.flag for settings in SECTIONS.values() for setting in settings}
    assert set(re.findall(r"(?<![\w-])--[a-z][a-z-]*", page)) <= known
    defaults = {setting.flag: setting.default for settings in (*SECTIONS.values(), SUITE) for setting in settings}
    for flag, default in re.findall(r"^\| `(--[a-z-]+)` \| (\d+) \|", page, re.MULTILINE):
        assert float(default) == defaults[flag], flag

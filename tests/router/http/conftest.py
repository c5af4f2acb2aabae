"""A toy suite whose router speaks HTTP, and openai's client of it."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest_asyncio
from openai import AsyncOpenAI

from tests.router.http.asking import api_of, http_suite
from tests.router.toy_suite import ToySuite


@pytest_asyncio.fixture
async def suite() -> AsyncIterator[ToySuite]:
    async with http_suite() as suite:
        yield suite


@pytest_asyncio.fixture
async def api(suite: ToySuite) -> AsyncIterator[AsyncOpenAI]:
    async with api_of(suite) as client:
        yield client

"""A toy suite for tests that need no other."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest_asyncio

from tests.router.toy_suite import ToySuite, toy_suite


@pytest_asyncio.fixture
async def suite() -> AsyncIterator[ToySuite]:
    async with toy_suite() as suite:
        yield suite

"""Which LLM replicas a router takes: those that serve what the first one served, and promise as much."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from router.llm_replicas import LlmPool
from specgrove.errors import InternalError
from specgrove.v1 import llm_pb2
from tests.router.toy_services import CONTEXT_LEN, ToyLlm


class _Stub:
    """Of one toy service."""

    def __init__(self) -> None:
        self._toy = ToyLlm()

    async def info(self) -> llm_pb2.LlmServiceGetModelInfoResponse:
        return await self._toy.GetModelInfo(None, None)

    def GetTokenizer(self, request: Any, timeout: float) -> Any:  # noqa: N802
        return self._toy.GetTokenizer(request, None)


def _changed(name: str, value: Any) -> Callable[[llm_pb2.LlmServiceGetModelInfoResponse], None]:
    def change(info: llm_pb2.LlmServiceGetModelInfoResponse) -> None:
        if isinstance(value, list):
            del getattr(info, name)[:]
            getattr(info, name).extend(value)
        else:
            setattr(info, name, value)

    return change


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (_changed("model", "another"), "another"),
        (_changed("architecture", "Other"), "Other"),
        (_changed("vocab_size", 300), "300"),
        (_changed("dtype", "bfloat16"), "bfloat16"),
        (_changed("eos_token_ids", [7]), r"\(7,\)"),
        (_changed("vocab_sha256", "0" * 64), "0000"),
        (_changed("max_model_len", CONTEXT_LEN - 1), "its context is 511 tokens, this router promises 512"),
    ],
)
async def test_a_replica_with_another_model_is_refused(change: Any, why: str) -> None:
    """In mid-stream its outputs would differ."""
    pool, stub = LlmPool([]), _Stub()
    await pool.accept(await stub.info(), stub)  # type: ignore[arg-type]
    model = pool.model
    await pool.accept(await stub.info(), stub)  # type: ignore[arg-type]
    other = await stub.info()
    change(other)
    with pytest.raises(InternalError, match=why):
        await pool.accept(other, stub)  # type: ignore[arg-type]
    assert pool.model is model


async def test_a_larger_context_is_taken() -> None:
    pool, stub = LlmPool([]), _Stub()
    await pool.accept(await stub.info(), stub)  # type: ignore[arg-type]
    larger = await stub.info()
    larger.max_model_len += 1
    await pool.accept(larger, stub)  # type: ignore[arg-type]


async def test_a_tokenizer_that_is_not_the_one_named_is_refused() -> None:
    pool, stub = LlmPool([]), _Stub()
    info = await stub.info()
    info.vocab_sha256 = "0" * 64
    with pytest.raises(InternalError, match="SHA-256 is not the one it names"):
        await pool.accept(info, stub)  # type: ignore[arg-type]
    assert pool.model is None

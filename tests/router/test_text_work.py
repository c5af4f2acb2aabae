"""Texts under way: long ones in a process of their own, whatever becomes of it; short ones at once."""

from __future__ import annotations

import asyncio
import functools
import gc
import os
import re
import signal
import subprocess
import sys
import time
import weakref
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import NoReturn

import pytest
import pytest_asyncio

from router import text_work
from router.text_process import TextProcess, TooSlowError
from router.text_work import TextWork
from specgrove.errors import InternalError, UnavailableError
from specgrove.tokenizer import ChatOptions, Tokenizer
from tests.router.toy_language import toy_tokenizer_json
from tests.waiting import LIMIT_S, until

LONG, SHORT = 4096, 4095
ROOT = Path(__file__).parents[2]
TEMPLATE = "{% for message in messages %}{{ message.content }}{{ eos_token }}{% endfor %}"
TOKENIZER = Tokenizer(toy_tokenizer_json(), {"eos_token": "<eos>"}, TEMPLATE)


class OddError(ValueError):
    """Can't be made again of what is pickled of it."""

    def __init__(self, number: int, text: str) -> None:
        super().__init__(f"{number} {text}")


def pid(tokenizer: Tokenizer) -> int:
    return os.getpid()


def priorities(tokenizer: Tokenizer) -> tuple[int, str]:
    """Of the process, and of its session where the system has that and lets it be set."""
    file = Path("/proc/self/autogroup")
    return os.getpriority(os.PRIO_PROCESS, 0), file.read_text().split()[-1] if os.access(file, os.W_OK) else "10"


def refuse(tokenizer: Tokenizer) -> NoReturn:
    raise OddError(3, "tokens too many")


def fail(tokenizer: Tokenizer) -> NoReturn:
    raise KeyError("x")


def die(tokenizer: Tokenizer, file: Path) -> NoReturn:
    with file.open("a") as lines:
        lines.write("died\n")
    os._exit(1)


def hang(tokenizer: Tokenizer) -> None:
    time.sleep(10 * LIMIT_S)


def tell(tokenizer: Tokenizer, file: Path) -> None:
    file.write_text(str(os.getpid()))


def tell_and_hang(tokenizer: Tokenizer, file: Path) -> None:
    tell(tokenizer, file)
    hang(tokenizer)


@pytest_asyncio.fixture
async def texts() -> AsyncIterator[TextWork]:
    work = TextWork()
    yield work
    work.close()


async def test_long_texts_have_one_process_of_low_priority_and_short_ones_wait_for_none(texts: TextWork) -> None:
    assert await texts.run(TOKENIZER, SHORT, pid) == os.getpid()
    pids = await asyncio.gather(*(texts.run(TOKENIZER, LONG, pid) for _ in range(3)))
    assert len({*pids}) == 1
    assert pids[0] != os.getpid()
    assert await texts.run(TOKENIZER, LONG, priorities) == (min(os.getpriority(os.PRIO_PROCESS, 0) + 10, 19), "10")


def test_the_priority_is_low_before_the_process_has_begun() -> None:
    process = TextProcess(TOKENIZER)
    try:
        assert os.getpriority(os.PRIO_PROCESS, process.pid) == min(os.getpriority(os.PRIO_PROCESS, 0) + 10, 19)
        file = Path(f"/proc/{process.pid}/autogroup")
        assert not os.access(file, os.W_OK) or file.read_text().split()[-1] == "10"
    finally:
        process.end()


async def test_the_process_makes_the_same_tokens_and_texts(texts: TextWork) -> None:
    options = ChatOptions(add_generation_prompt=False)
    chat = [{"role": "user", "content": "hello"}]
    for function in (
        functools.partial(Tokenizer.encode, text="hello <eos>"),
        functools.partial(Tokenizer.encode_chat, messages=chat, options=options),
        functools.partial(Tokenizer.decode, ids=TOKENIZER.encode("hello <eos>"), keep_special_tokens=True),
    ):
        here = await texts.run(TOKENIZER, SHORT, function)
        assert await texts.run(TOKENIZER, LONG, function) == here
        assert here


async def test_another_tokenizer_takes_the_place_of_the_first(texts: TextWork) -> None:
    other = Tokenizer(toy_tokenizer_json(), {"eos_token": "a"}, TEMPLATE)
    encode = functools.partial(Tokenizer.encode_chat, messages=[{"role": "user", "content": "b"}])
    ids = [await texts.run(tokenizer, LONG, encode) for tokenizer in (TOKENIZER, other, TOKENIZER)]
    assert ids == [TOKENIZER.encode("b<eos>"), other.encode("ba"), TOKENIZER.encode("b<eos>")]


async def test_large_requests_take_turns_and_the_loop_goes_on_between_two(texts: TextWork) -> None:
    seen: list[str] = []

    async def look(num_bytes: int, name: str) -> None:
        await texts.turn(num_bytes)
        seen.append(name)

    async def stream() -> None:
        for _ in range(10):
            seen.append("-")
            await asyncio.sleep(0)

    calls = [look(65536, "L"), look(65536, "L"), look(30000, "s"), look(30000, "s"), look(65536, "L"), stream()]
    await asyncio.gather(*calls)
    # Small ones share a turn; nobody overtakes.
    assert re.sub("-+", "-", "".join(seen)).rstrip("-") == "L-L-ss-L"


async def test_short_texts_have_one_turn_of_the_loop_after_another(texts: TextWork) -> None:
    seen: list[str] = []

    def work(tokenizer: Tokenizer) -> None:
        seen.append("x")

    async def stream() -> None:
        for _ in range(6):
            seen.append("-")
            await asyncio.sleep(0)

    await asyncio.gather(*(texts.run(TOKENIZER, 4000, work) for _ in range(4)), stream())
    assert re.sub("-+", "-", "".join(seen)).rstrip("-") == "x-x-x-x"


async def test_errors_are_those_of_the_text_alone(texts: TextWork) -> None:
    before = await texts.run(TOKENIZER, LONG, pid)
    for _ in range(3):
        with pytest.raises(ValueError, match=r"^3 tokens too many$"):
            await texts.run(TOKENIZER, LONG, refuse)
        with pytest.raises(InternalError, match="KeyError: 'x'"):
            await texts.run(TOKENIZER, LONG, fail)
    assert await texts.run(TOKENIZER, LONG, pid) == before


async def test_a_text_that_ends_its_process_is_given_up_after_the_second_time(texts: TextWork, tmp_path: Path) -> None:
    file = tmp_path / "deaths"
    with pytest.raises(InternalError, match="its process ended 2 times"):
        await texts.run(TOKENIZER, LONG, functools.partial(die, file=file))
    assert file.read_text() == "died\n" * 2
    first = await texts.run(TOKENIZER, LONG, pid)
    os.kill(first, signal.SIGKILL)
    assert await texts.run(TOKENIZER, LONG, pid) != first


async def test_a_text_that_takes_too_long_is_given_up() -> None:
    texts = TextWork(limit_s=0.01)
    with pytest.raises(InternalError, match=r"not be worked on within 0\.01 s"):
        await texts.run(TOKENIZER, LONG, hang)
    texts.close()


def spin(tokenizer: Tokenizer) -> None:
    while True:
        pass


async def test_what_takes_too_much_processor_time_is_ended_by_the_kernel(caplog: pytest.LogCaptureFixture) -> None:
    limit_s = 0.2
    texts = TextWork(limit_s=limit_s)
    with pytest.raises(InternalError, match=r"not be worked on within 0\.2 s"):
        await texts.run(TOKENIZER, LONG, spin)
    process = TextProcess(TOKENIZER)
    with pytest.raises(TooSlowError):
        process.run(spin, limit_s)
    assert process._process.wait() == -signal.SIGPROF
    process.end()
    texts.close()


async def test_what_asks_for_too_much_memory_is_refused_it(texts: TextWork) -> None:
    first = await texts.run(TOKENIZER, LONG, pid)
    with pytest.raises(InternalError, match="MemoryError"):
        await texts.run(TOKENIZER, LONG, functools.partial(make, num_bytes=8 << 30))
    assert await texts.run(TOKENIZER, LONG, pid) == first


def make(tokenizer: Tokenizer, num_bytes: int) -> int:
    return len(b"x" * num_bytes)


async def test_a_client_that_goes_away_leaves_the_process_to_others(texts: TextWork) -> None:
    first = await texts.run(TOKENIZER, LONG, pid)
    calls = [asyncio.create_task(texts.run(TOKENIZER, LONG, pid)) for _ in range(5)]
    await asyncio.sleep(0)
    for call in calls[::2]:
        call.cancel()
    answers = await asyncio.gather(*calls, return_exceptions=True)
    assert [answers[1], answers[3]] == [first, first]
    assert await texts.run(TOKENIZER, LONG, pid) == first


async def test_those_who_went_away_leave_nothing_behind_while_another_text_is_worked_on(texts: TextWork) -> None:
    async def leave(function: Callable[[Tokenizer], object]) -> None:
        call = asyncio.create_task(texts.run(TOKENIZER, LONG, function))
        await asyncio.sleep(0)
        call.cancel()
        await asyncio.wait({call})

    await leave(hang)
    left = []
    for _ in range(3):
        function = functools.partial(pid)
        left.append(weakref.ref(function))
        await leave(function)
    del function
    gc.collect()
    assert [reference() for reference in left] == [None] * 3


async def test_a_process_that_cannot_be_started_is_told_of(texts: TextWork, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(sys, "executable", "/no/such/python")
        for _ in range(2):
            with pytest.raises(InternalError, match=r"process for long texts can't be started: .*No such file"):
                await texts.run(TOKENIZER, LONG, pid)
    assert await texts.run(TOKENIZER, LONG, pid) != os.getpid()


async def test_a_process_that_starts_while_the_router_closes_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    texts = TextWork()

    class LateProcess(TextProcess):
        def __init__(self, tokenizer: Tokenizer, what: str, *, is_low_priority: bool = True) -> None:
            super().__init__(tokenizer, what, is_low_priority=is_low_priority)
            texts.close()  # finds none

    monkeypatch.setattr(text_work, "TextProcess", LateProcess)
    with pytest.raises(UnavailableError, match="going away"):
        await texts.run(TOKENIZER, LONG, pid)
    with pytest.raises(UnavailableError, match="going away"):
        await texts.run(TOKENIZER, LONG, pid)


async def test_closing_ends_what_runs() -> None:
    texts = TextWork()
    first = await texts.run(TOKENIZER, LONG, pid)
    call = asyncio.create_task(texts.run(TOKENIZER, LONG, hang))
    await asyncio.sleep(0)
    texts.close()
    with pytest.raises(UnavailableError, match="going away"):
        await call
    await until(lambda: not _is_there(first))


@pytest.mark.parametrize("is_busy", [False, True])
async def test_the_process_ends_when_the_router_is_killed(is_busy: bool, tmp_path: Path) -> None:
    file = tmp_path / "pid"
    code = f"""
import asyncio
from tests.router.test_text_work import *
async def main():
    texts, file = TextWork(), Path({str(file)!r})
    call = asyncio.create_task(texts.run(TOKENIZER, LONG, functools.partial(tell_and_hang if {is_busy} else tell, file=file)))
    await until(lambda: file.exists() and file.read_text() and (call.done() or {is_busy}))
    os.kill(os.getpid(), 9)
asyncio.run(main())
"""
    router = await asyncio.to_thread(
        subprocess.run, [sys.executable, "-c", code], cwd=ROOT, check=False, timeout=LIMIT_S
    )
    assert router.returncode == -signal.SIGKILL
    await until(lambda: not _is_there(int(file.read_text())))


def _is_there(number: int) -> bool:
    try:
        os.kill(number, 0)
    except ProcessLookupError:
        return False
    return True

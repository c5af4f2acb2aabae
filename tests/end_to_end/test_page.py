"""The chat page in a browser, from the router's HTTP address: what people see and do there, with the real services behind it."""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import re
import shutil
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import grpc
import pytest
import pytest_asyncio

from specgrove.client import Client
from specgrove.suite.processes import Suite
from specgrove.v1 import llm_pb2, llm_pb2_grpc
from tests.waiting import LIMIT_S

pytestmark = pytest.mark.asyncio(loop_scope="module")  # of the one browser
CHROMIUM = shutil.which("chromium")
playwright_api = pytest.importorskip("playwright.async_api", reason="needs Playwright")
if importlib.util.find_spec("gradio") is None:  # to import it takes seconds, and this process needs none of it
    pytest.skip("the chat page needs Gradio", allow_module_level=True)
if CHROMIUM is None:
    pytest.skip("needs the browser Chromium (apt-get install chromium)", allow_module_level=True)

QUESTION = "Name three primes."
LONG_QUESTION = "Write a long story about a lighthouse keeper."
CONTRAST = (Path(__file__).parent / "contrast.js").read_text().partition("\n")[2]
Open = Callable[..., Any]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def browser() -> AsyncIterator[Any]:
    async with playwright_api.async_playwright() as playwright:
        running = await playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield running
        await running.close()


@pytest_asyncio.fixture(loop_scope="module")
async def open_page(suite: Suite, browser: Any, http_address: str) -> AsyncIterator[Open]:
    """Opens the page for a new visitor, once it can be used. Nothing may be fetched from elsewhere, and no script may fail."""
    foreign, failures = [], []
    async with contextlib.AsyncExitStack() as contexts:

        async def opened(**options: Any) -> Any:
            context = await browser.new_context(**{"viewport": {"width": 1280, "height": 860}, **options})
            contexts.push_async_callback(context.close)
            context.set_default_timeout(LIMIT_S * 1e3)
            page = await context.new_page()
            page.on(
                "request",
                lambda request: foreign.append(request.url) if is_foreign(request.url, http_address) else None,
            )
            page.on("pageerror", lambda error: failures.append(str(error)))
            await page.goto(f"http://{http_address}/")
            # The first to come waits for the page's process: until then a word about that is there, which loads itself again.
            await page.wait_for_selector("#legend .ssm0")
            return page

        yield opened
    assert foreign == []
    assert failures == []


def is_foreign(url: str, address: str) -> bool:
    return not url.startswith((f"http://{address}/", "data:", "blob:"))


async def ask(page: Any, question: str) -> None:
    await page.fill("#question textarea", question)
    await page.press("#question textarea", "Enter")


async def answered(page: Any, number: int = 1) -> None:
    """Until so many answers are there."""
    await page.wait_for_selector(f"#history .answer >> nth={number - 1}")
    await page.wait_for_selector("#send")


async def choose_tab(page: Any, name: str) -> None:
    await page.get_by_role("tab", name=name).click()


async def sessions_end(suite: Suite) -> None:
    async with grpc.aio.insecure_channel(suite.address_of("llm_service")) as channel:
        llm = llm_pb2_grpc.LlmServiceStub(channel)

        async def num_sessions() -> int:
            return int((await llm.GetLoad(llm_pb2.LlmServiceGetLoadRequest())).load.num_sessions)

        async with asyncio.timeout(LIMIT_S):
            while await num_sessions():  # noqa: ASYNC110
                await asyncio.sleep(0.05)


async def test_a_conversation_with_marked_tokens_chart_and_tree(open_page: Open, client: Client) -> None:
    page = await open_page()
    await ask(page, QUESTION)
    await answered(page)
    first = await asyncio.to_thread(client.complete, [("user", QUESTION)])
    tokens = page.locator("#history .answer .tokens")
    assert await tokens.first.text_content() == first.text
    # How much is drafted depends on times, and on what was said before. The figures, the marks and the drawings must agree.
    figures = await page.locator("#figures dd").all_text_contents()
    num_accepted, num_drafted = map(int, figures[2].split(" of "))
    drawn = await page.get_attribute("#chart svg", "aria-label") or ""
    num_tokens, num_steps = map(int, re.findall(r"\d+", drawn)[:2])
    assert num_tokens == first.usage.num_output_tokens
    # The last step may end on a draft, without a token of the LLM's own.
    assert num_tokens - num_accepted in (num_steps, num_steps - 1)
    assert figures[0] == f"{num_tokens / num_steps:.2f}"
    assert 0 < await page.locator("#history .answer .drafted").count() <= num_accepted <= num_drafted
    assert "A token tree of" in (await page.get_attribute("#tree svg", "aria-label") or "")
    assert await page.locator("#tree .edge.accepted").count() == await page.locator("#tree .node.accepted").count()

    await ask(page, "And two more?")
    await answered(page, 2)
    messages = [("user", QUESTION), ("assistant", first.text), ("user", "And two more?")]
    second = await asyncio.to_thread(client.complete, messages, max_tokens=512)
    assert await tokens.nth(1).text_content() == second.text

    await page.click("#clear")
    await page.wait_for_selector("#history .empty")
    await ask(page, QUESTION)
    await answered(page)
    assert await tokens.first.text_content() == first.text


async def test_stop_ends_the_request_and_keeps_what_came(open_page: Open, suite: Suite) -> None:
    page = await open_page()
    await ask(page, LONG_QUESTION)
    await page.wait_for_selector("#live .drafted")
    await page.click("#stop")
    await answered(page)
    note = await page.locator("#history .answer .note").text_content()
    assert note.startswith("stopped · ")
    assert await page.locator("#history .answer .tokens").text_content()
    await sessions_end(suite)
    await ask(page, QUESTION)
    await answered(page, 2)


@pytest.mark.slow
async def test_whoever_leaves_ends_the_request(open_page: Open, suite: Suite) -> None:
    page = await open_page()
    await ask(page, LONG_QUESTION)
    await page.wait_for_selector("#live .drafted")
    await page.close()
    await sessions_end(suite)


@pytest.mark.slow
async def test_the_toggle_shows_plain_text_instead_of_marks(open_page: Open) -> None:
    page = await open_page()
    await ask(page, QUESTION)
    await answered(page)
    tokens, prose = page.locator("#history .tokens"), page.locator("#history .markdown")
    assert await tokens.is_visible()
    assert not await prose.is_visible()
    await page.uncheck("#toggle input")
    await prose.wait_for(state="visible")
    assert not await tokens.is_visible()
    await page.check("#toggle input")
    await tokens.wait_for(state="visible")


async def test_with_and_without_speculation_side_by_side(open_page: Open) -> None:
    page = await open_page()
    await choose_tab(page, "Side by side")
    await page.fill("#compared-question textarea", QUESTION)
    await page.click("#compare")
    await page.wait_for_selector("#verdict table")
    verdict = await page.text_content("#verdict")
    assert "The same text, token for token." in verdict
    assert await page.text_content("#speculative .tokens") == await page.text_content("#incremental .tokens")
    assert await page.locator("#speculative .drafted").count() > 0
    assert await page.locator("#incremental .drafted").count() == 0


@pytest.mark.slow
async def test_settings_are_those_of_the_request(open_page: Open, client: Client) -> None:
    page = await open_page()
    await choose_tab(page, "Settings")
    for ssm in await page.locator("#settings-ssms label").all():
        await ssm.click()
    await page.get_by_label("Seed").fill("seven")
    await page.get_by_label("number input for Temperature").fill("0.9")
    await page.get_by_label("number input for Max tokens").fill("20")
    await page.get_by_label("System prompt").fill("You are a pirate.")
    await choose_tab(page, "Chat")
    await ask(page, QUESTION)
    await page.wait_for_selector("text=must be a whole number from 0 to 2^64 - 1")
    await choose_tab(page, "Settings")
    await page.get_by_label("Seed").fill("7")
    await choose_tab(page, "Chat")
    await ask(page, QUESTION)
    await answered(page)
    messages = [("system", "You are a pirate."), ("user", QUESTION)]
    expected = await asyncio.to_thread(client.complete, messages, temperature=0.9, seed=7, max_tokens=20)
    assert await page.locator("#history .answer .tokens").text_content() == expected.text
    assert await page.locator("#history .answer .drafted").count() == 0
    assert "goes on by itself" in await page.text_content("#tree")


@pytest.mark.slow
async def test_everything_can_be_done_by_the_keyboard(open_page: Open, suite: Suite) -> None:
    page = await open_page()

    async def tab_to(selector: str, key: str = "Tab") -> None:
        for _ in range(40):
            if await page.evaluate("(selector) => document.activeElement.matches(selector)", selector):
                return
            await page.keyboard.press(key)
        raise AssertionError(f"{selector} can't be reached by {key}")

    # The question has the focus from the beginning.
    await page.keyboard.type(LONG_QUESTION)
    await page.keyboard.press("Enter")
    await page.wait_for_selector("#live .drafted")
    await tab_to("#stop")
    outline = await page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
    assert outline != "none"
    await page.keyboard.press("Enter")
    await answered(page)
    await tab_to("#conversation", "Shift+Tab")
    await tab_to("#toggle input", "Shift+Tab")
    await page.keyboard.press("Space")
    await page.wait_for_selector("#history .markdown")
    await tab_to('[role="tab"][aria-selected="false"]')
    await page.keyboard.press("Enter")
    await page.wait_for_selector("#compare")
    await sessions_end(suite)


@pytest.mark.slow
async def test_no_files_are_taken(open_page: Open, http_address: str) -> None:
    page = await open_page()
    file = {"name": "a.txt", "mimeType": "text/plain", "buffer": b"a"}
    answer = await page.request.post(f"http://{http_address}/gradio_api/upload", multipart={"files": file})
    assert answer.status == 403


@pytest.mark.slow
async def test_it_fits_a_phone(open_page: Open) -> None:
    page = await open_page(viewport={"width": 390, "height": 844}, has_touch=True, is_mobile=True)
    await ask(page, QUESTION)
    await answered(page)
    for name in ("Chat", "Side by side", "Settings"):
        await choose_tab(page, name)
        assert await page.evaluate("document.documentElement.scrollWidth") <= 390
    await choose_tab(page, "Chat")
    for element in ("#conversation", "#question", "#send", "#inspector"):
        box = await page.locator(element).bounding_box()
        assert box["x"] >= 0
        assert box["x"] + box["width"] <= 390
    assert (await page.locator("#question").bounding_box())["width"] > 200


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["light", "dark"])
async def test_all_texts_can_be_read(open_page: Open, scheme: str) -> None:
    page = await open_page(color_scheme=scheme)
    await ask(page, QUESTION)
    await answered(page)
    ground = await page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert ground == {"light": "rgb(255, 255, 255)", "dark": "rgb(15, 23, 42)"}[scheme]
    for name in ("Side by side", "Settings", "Chat"):
        await choose_tab(page, name)
        await page.get_by_role("tab", name=name, selected=True).wait_for()
        assert await page.evaluate(CONTRAST) == []

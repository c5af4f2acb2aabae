"""The page's layout, and which function answers which event. ``answering`` has the functions, ``style.css`` the looks.

Made by ``server``. Gradio keeps a ``Visitor`` for each open page, and calls handlers with it.
"""

from __future__ import annotations

import html
from collections.abc import AsyncGenerator, Callable, Mapping
from pathlib import Path
from typing import Any

from specgrove.client import AsyncClient
from specgrove.errors import SpecGroveError
from specgrove.web.answer_html import EMPTY
from specgrove.web.answering import ChatView, ComparisonView, Visitor, chat, compare, error_in_words
from specgrove.web.conversation import Answer, ChatOptions
from specgrove.web.quick_gradio import gr
from specgrove.web.ssm_marks import SsmMarks
from specgrove.web.statistics_view import statistics_html
from specgrove.web.step_chart import chart_svg
from specgrove.web.tree_view import tree_html

FOLDER = Path(__file__).parent
# Fonts are Gradio's own files, so a page on a machine without the internet looks the same. Its semi-bold ones lack most letters.
THEME = gr.themes.Base(
    primary_hue="teal",
    neutral_hue="slate",
    font=(gr.themes.LocalFont("Source Sans Pro", weights=(400, 700)), "system-ui", "sans-serif"),
    font_mono=(gr.themes.LocalFont("IBM Plex Mono", weights=(400, 700)), "ui-monospace", "monospace"),
).set(
    # White on them can be read: 5.5 to 1, and 7.6 to 1.
    button_primary_background_fill="*primary_700",
    button_primary_background_fill_hover="*primary_800",
    button_primary_background_fill_dark="*primary_700",
    button_primary_background_fill_hover_dark="*primary_800",
    # The same for what is read on the page's ground.
    color_accent="*primary_700",
    checkbox_background_color_selected="*primary_700",
    checkbox_border_color_selected="*primary_700",
    slider_color="*primary_700",
    block_info_text_color="*neutral_600",
    block_info_text_color_dark="*neutral_400",
    input_placeholder_color="*neutral_500",
    input_placeholder_color_dark="*neutral_400",
)

_MAX_NUM_TOKENS = 4096
_COMPARED_QUESTION = "Write a short story about a lighthouse keeper."
ClientOf = Callable[[Mapping[str, str]], AsyncClient]
"""The client for a visitor's request, by its headers."""
# Events: no spinners over what is read, and no doors for programs, which have the router's own API.
_QUIET: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}


def make_page(client_of: ClientOf, defaults: ChatOptions) -> gr.Blocks:
    """For any number of visitors. ``client_of`` is asked at each of their requests. ``defaults`` are the settings at first."""
    page: gr.Blocks = gr.Blocks(title="SpecGrove", analytics_enabled=False)
    with page:
        visitor = gr.State(Visitor())
        with gr.Row(elem_id="top"):
            header = gr.HTML(_header("connecting …"), elem_id="header")
            with gr.Row(elem_id="marks"):
                legend = gr.HTML(elem_id="legend")
                # Read by style.css alone.
                gr.Checkbox(True, label="Show who drafted what", interactive=True, container=False, elem_id="toggle")
        with gr.Tab("Settings", render_children=True, render=False) as settings_tab:
            settings = _add_settings(defaults)
        with gr.Tabs():
            with gr.Tab("Chat"):
                _add_chat(client_of, visitor, settings, defaults)
            with gr.Tab("Side by side"):
                _add_comparison(client_of, visitor, settings, defaults)
            settings_tab.render()

        async def open_page(visitor: Visitor, request: gr.Request) -> tuple[Any, ...]:
            try:
                visitor.info = info = await client_of(request.headers).model_info()
            except SpecGroveError as error:
                return _header(f"{error_in_words(error)}; reload the page to try again"), gr.skip(), gr.skip()
            chosen = [name for name in info.ssms if defaults.ssms is None or name in defaults.ssms]
            ssms = gr.update(choices=list(info.ssms), value=chosen, visible=bool(info.ssms))
            return _header(" · ".join(filter(None, (info.model, info.dtype)))), SsmMarks(info.ssms).legend(), ssms

        page.load(open_page, [visitor], [header, legend, settings[-1]], **_QUIET)
    page.queue(default_concurrency_limit=64, max_size=256)
    return page


def _add_settings(defaults: ChatOptions) -> list[Any]:
    """In the order of ``_options``."""
    with gr.Row():
        temperature = gr.Slider(
            0,
            2,
            defaults.temperature,
            step=0.05,
            label="Temperature",
            info="0: always the most probable token",
            min_width=280,
        )
        top_p = gr.Slider(
            0, 1, defaults.top_p, step=0.01, label="Top-p", info="keep the tokens of this mass; 1: all", min_width=280
        )
        max_tokens = gr.Slider(
            0,
            _MAX_NUM_TOKENS,
            defaults.max_tokens,
            step=1,
            label="Max tokens",
            info="of an answer; 0: what the context holds",
            min_width=280,
        )
    with gr.Row():
        top_k = gr.Number(
            defaults.top_k, label="Top-k", precision=0, minimum=0, info="keep the k most probable; 0: all"
        )
        seed = gr.Textbox(
            "" if defaults.seed is None else str(defaults.seed),
            label="Seed",
            info="the same seed gives the same text; empty: a new one each time",
        )
        ssms = gr.CheckboxGroup(
            [], label="SSMs", info="which may draft; with none the LLM goes on alone", elem_id="settings-ssms"
        )
    system = gr.Textbox(
        defaults.system, label="System prompt", lines=2, max_lines=6, placeholder="Who the model is to be"
    )
    return [temperature, top_p, top_k, max_tokens, seed, system, ssms]


def _options(visitor: Visitor, values: tuple[Any, ...], defaults: ChatOptions) -> ChatOptions:
    """Raises ``gr.Error`` where a value is none."""
    temperature, top_p, top_k, max_tokens, seed, system, ssms = values
    seed = (seed or "").strip()
    if seed and not seed.isdecimal():
        raise gr.Error(f"Seed: must be a whole number from 0 to 2^64 - 1, got {seed!r}", print_exception=False)
    return ChatOptions(
        temperature=temperature,
        top_p=top_p,
        top_k=int(top_k or 0),
        max_tokens=int(max_tokens),
        seed=int(seed) if seed else None,
        system=system or "",
        ssms=tuple(ssms or ()),
        known_ssms=visitor.info.ssms if visitor.info is not None else (),
        further=defaults.further,
    )


def _add_chat(client_of: ClientOf, visitor: gr.State, settings: list[Any], defaults: ChatOptions) -> None:
    with gr.Row(elem_id="chat"):
        with gr.Column(scale=3, min_width=340, elem_id="talk"):
            with gr.Column(elem_id="conversation", min_width=0):
                history = gr.HTML(EMPTY, elem_id="history", apply_default_css=False)
                live = gr.HTML("", elem_id="live", elem_classes="tokens", apply_default_css=False)
            with gr.Row(elem_id="asking", equal_height=True):
                question = gr.Textbox(
                    placeholder="Ask something", show_label=False, label="Question", max_lines=8, autofocus=True,
                    container=False, scale=1, elem_id="question",
                )  # fmt: skip
                send = gr.Button("Send", variant="primary", scale=0, min_width=88, elem_id="send")
                stop = gr.Button("Stop", variant="stop", scale=0, min_width=88, visible=False, elem_id="stop")
            clear = gr.Button("New conversation", size="sm", elem_id="clear")
        with gr.Column(scale=2, min_width=340, elem_id="inspector"):
            gr.HTML("<h2>Tokens per step</h2>")
            figures = gr.HTML(statistics_html(Answer()), elem_id="figures")
            chart = gr.HTML(chart_svg((), SsmMarks(())), elem_id="chart")
            gr.HTML("<h2>The last token tree</h2>")
            tree = gr.HTML(tree_html(Answer(), SsmMarks(())), elem_id="tree")
    shown = [history, live, figures, chart, tree, question, send, stop]

    async def ask(
        request: gr.Request, visitor: Visitor, question: str, *values: Any
    ) -> AsyncGenerator[tuple[Any, ...], None]:
        if not question.strip() or visitor.conversation.is_answering:
            return
        options = _options(visitor, values, defaults)
        async for view in chat(client_of(request.headers), visitor, question.strip(), options):
            yield _of_chat(view)

    def forget(visitor: Visitor) -> tuple[Any, ...]:
        visitor.conversation.stop()
        visitor.conversation = type(visitor.conversation)()
        empty = Answer()
        return _of_chat(
            ChatView(
                False, EMPTY, "", statistics_html(empty), chart_svg((), visitor.marks), tree_html(empty, visitor.marks)
            )
        )

    gr.on([question.submit, send.click], ask, [visitor, question, *settings], shown, trigger_mode="once", **_QUIET)
    stop.click(lambda visitor: visitor.conversation.stop(), [visitor], None, queue=False, **_QUIET)
    clear.click(forget, [visitor], shown, queue=False, **_QUIET)


def _add_comparison(client_of: ClientOf, visitor: gr.State, settings: list[Any], defaults: ChatOptions) -> None:
    gr.HTML(
        "<p>The same request twice, first with speculation and then without it, one after the other so that neither slows the "
        "other. Asked again, it is faster where an SSM learns from outputs.</p>",
        elem_id="about-comparison",
    )
    with gr.Row(elem_classes="asking", equal_height=True):
        question = gr.Textbox(
            _COMPARED_QUESTION, show_label=False, label="Question to compare with", max_lines=8, container=False, scale=1,
            elem_id="compared-question",
        )  # fmt: skip
        start = gr.Button("Compare", variant="primary", scale=0, min_width=100, elem_id="compare")
        stop = gr.Button("Stop", variant="stop", scale=0, min_width=100, visible=False, elem_id="stop-comparison")
    verdict = gr.HTML("", elem_id="verdict")
    texts, notes = [], []
    with gr.Row(elem_id="comparison"):
        for name, elem_id in (("With speculation", "speculative"), ("Without", "incremental")):
            with gr.Column(min_width=340, elem_id=elem_id, elem_classes="compared"):
                gr.HTML(f"<h2>{name}</h2>")
                notes.append(gr.HTML("", elem_classes="note"))
                texts.append(gr.HTML("", elem_classes="tokens", apply_default_css=False))
    shown = [*texts, *notes, verdict, start, stop]

    async def run(
        request: gr.Request, visitor: Visitor, question: str, *values: Any
    ) -> AsyncGenerator[tuple[Any, ...], None]:
        if not question.strip() or visitor.comparison.is_answering:
            return
        options = _options(visitor, values, defaults)
        async for view in compare(client_of(request.headers), visitor, question.strip(), options):
            yield _of_comparison(view)

    gr.on([question.submit, start.click], run, [visitor, question, *settings], shown, trigger_mode="once", **_QUIET)
    stop.click(lambda visitor: visitor.comparison.stop(), [visitor], None, queue=False, **_QUIET)


def _of_chat(view: ChatView) -> tuple[Any, ...]:
    values = (view.history, view.live, view.statistics, view.chart, view.tree, view.question)
    return (*map(_or_unchanged, values), *_send_or_stop(view.is_answering))


def _of_comparison(view: ComparisonView) -> tuple[Any, ...]:
    values = (*view.texts, *view.statistics, view.verdict)
    return (*map(_or_unchanged, values), *_send_or_stop(view.is_answering))


def _send_or_stop(is_answering: bool) -> tuple[Any, Any]:
    """One button takes the other's place."""
    return gr.update(visible=not is_answering), gr.update(visible=is_answering)


def _or_unchanged(value: str | None) -> Any:
    return gr.skip() if value is None else value


def _header(words: str) -> str:
    return f"<h1>SpecGrove</h1><p>{html.escape(words)}</p>"

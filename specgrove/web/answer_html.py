"""A conversation as HTML. Every answer is there twice, token by token with its marks, and as Markdown: ``style.css`` shows one of both.

Invariant: what a model or a visitor has written is text, and never becomes a tag of the page.
"""

from __future__ import annotations

import html
from collections.abc import Sequence

from markdown_it import MarkdownIt

from specgrove.client.output import OutputToken
from specgrove.loop.output import FinishReason
from specgrove.web.conversation import Answer, Turn
from specgrove.web.ssm_marks import SsmMarks

# Without "html", tags in a text are text. Images would be fetched from wherever a model says.
_MARKDOWN = MarkdownIt("commonmark", {"html": False}).enable("table").disable("image")

EMPTY = (
    '<div class="empty"><p class="lead">Ask something.</p>'
    "<p>Small models guess ahead, the large one decides. Marked tokens are guesses that it accepted: "
    "they came several to a step, and the text is the same as without them.</p></div>"
)


def tokens_html(tokens: Sequence[OutputToken], marks: SsmMarks) -> str:
    """The tokens' texts. What is added to ``tokens`` later is added to this, so that only the new part needs to be sent."""
    return "".join(_token_html(token, marks) for token in tokens)


def turns_html(turns: Sequence[Turn], marks: SsmMarks, *, is_last_open: bool = False) -> str:
    """All of a conversation. The last turn's answer is left out while it ``is_last_open``: it is shown as it comes, beneath."""
    if not turns:
        return EMPTY
    parts = [_turn_html(turn, marks) for turn in turns[:-1]]
    last = turns[-1]
    parts.append(_question_html(last.question) if is_last_open else _turn_html(last, marks))
    return "".join(parts)


def answer_html(answer: Answer, marks: SsmMarks) -> str:
    """A whole answer in both forms, and a line about it."""
    if answer.text:
        in_tokens = "".join(token.text for token in answer.tokens)
        # Half a character at the end belongs to no token.
        rest = html.escape(answer.text[len(in_tokens) :])
        body = (
            f'<div class="tokens">{tokens_html(answer.tokens, marks)}{rest}</div>'
            f'<div class="markdown">{_MARKDOWN.render(answer.text)}</div>'
        )
    else:
        body = ""
    return f'<div class="answer">{body}<p class="note">{html.escape(note_of(answer))}</p></div>'


def note_of(answer: Answer) -> str:
    """What is said of an answer in a line."""
    words = [answer.note] if answer.note else []
    if answer.tokens:
        num_tokens = len(answer.tokens)
        words.append(f"{num_tokens} token{'s' if num_tokens != 1 else ''}")
        words.append(f"{answer.tokens_per_step:.2f} per step")
    if answer.tokens_per_s:
        words.append(f"{answer.tokens_per_s:.0f} tokens/s")
    if answer.finish_reason is FinishReason.LENGTH:
        words.append("cut at the limit of tokens")
    return " · ".join(words)


def _turn_html(turn: Turn, marks: SsmMarks) -> str:
    return _question_html(turn.question) + answer_html(turn.answer, marks)


def _question_html(question: str) -> str:
    return f'<div class="question"><span class="who">You asked: </span>{html.escape(question)}</div>'


def _token_html(token: OutputToken, marks: SsmMarks) -> str:
    text = html.escape(token.text)
    if not token.drafted_by or not text:
        return text
    title = html.escape(f"drafted by {' and '.join(token.drafted_by)}")
    return f'<span class="drafted {marks.look(token.drafted_by)}" title="{title}">{text}</span>'

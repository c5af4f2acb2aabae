"""Figures of an answer, and of two that are compared, as HTML."""

from __future__ import annotations

from collections.abc import Callable

from specgrove.client.output import Usage
from specgrove.web.conversation import Answer

_NOTHING = "--"


def statistics_html(answer: Answer) -> str:
    """Four figures; those that are not known yet are dashes."""
    figures = (
        ("tokens per step", f"{answer.tokens_per_step:.2f}" if answer.steps else _NOTHING),
        ("tokens/s", f"{answer.tokens_per_s:.0f}" if answer.tokens_per_s else _NOTHING),
        ("accepted of drafted", f"{answer.num_accepted} of {answer.num_drafted}" if answer.steps else _NOTHING),
        ("first token", f"{answer.usage.first_token_ms:.0f} ms" if answer.usage else _NOTHING),
    )
    return (
        f'<dl class="figures">{"".join(f"<div><dt>{name}</dt><dd>{value}</dd></div>" for name, value in figures)}</dl>'
    )


def verdict_html(speculative: Answer, incremental: Answer) -> str:
    """What speculation has changed: the speed, and nothing else. Both answers are whole."""
    is_same = [token.token_id for token in speculative.tokens] == [token.token_id for token in incremental.tokens]
    words = "The same text, token for token." if is_same else "The texts differ. That must not be: please report it."
    with_it, without = speculative.usage, incremental.usage
    if with_it is None or without is None or not with_it.tokens_per_s or not without.tokens_per_s:
        return f"<p><strong>{words}</strong></p>"
    ratio = with_it.tokens_per_s / without.tokens_per_s
    return f"<p><strong>{words} {ratio:.2f} times the speed.</strong></p>{_table(with_it, without)}"


def _table(speculative: Usage, incremental: Usage) -> str:
    rows = "".join(
        f'<tr><th scope="row">{name}</th><td>{of(speculative)}</td><td>{of(incremental)}</td></tr>'
        for name, of in _COMPARED
    )
    return (
        '<table><thead><tr><td></td><th scope="col">with speculation</th><th scope="col">without</th></tr></thead>'
        f"<tbody>{rows}</tbody></table>"
    )


_COMPARED: tuple[tuple[str, Callable[[Usage], str]], ...] = (
    ("tokens per second", lambda usage: f"{usage.tokens_per_s:.1f}"),
    ("steps of the LLM", lambda usage: str(usage.num_verify_steps)),
    ("tokens per step", lambda usage: f"{usage.mean_acceptance_len:.2f}"),
    ("first token", lambda usage: f"{usage.first_token_ms:.0f} ms"),
)

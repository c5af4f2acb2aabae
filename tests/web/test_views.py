"""What is drawn: texts are never tags, marks need no colours, and the tree's accepted path runs straight."""

from __future__ import annotations

import itertools
import re
import xml.etree.ElementTree as ElementTree

from specgrove.client.output import Usage
from specgrove.loop.output import FinishReason
from specgrove.web.answer_html import answer_html, note_of, tokens_html, turns_html
from specgrove.web.conversation import Answer, Turn
from specgrove.web.ssm_marks import SsmMarks
from specgrove.web.statistics_view import statistics_html, verdict_html
from specgrove.web.step_chart import chart_svg
from specgrove.web.tree_view import tree_html
from tests.web.answers import SSMS, TREE, answered, drafted_answer, drafted_chunk, node, own_chunk, token

MARKS = SsmMarks(SSMS)


def usage_of(num_tokens: int, num_steps: int, decode_ms: float) -> Usage:
    return Usage(1, num_tokens, num_steps, (), (), (), 0, 12.0, decode_ms, 0.0, 0.0, 0, 0)


def test_marks() -> None:
    assert [MARKS.look(by) for by in ((), ("lookup",), ("demo",), SSMS)] == ["own", "ssm0", "ssm1", "several"]
    assert [MARKS.letters(by) for by in ((), ("demo",), SSMS)] == ["", "B", "AB"]
    many = SsmMarks([f"s{number}" for number in range(9)])
    assert many.look(("s8",)) == many.look(("s2",))
    assert many.letters(("s8",)) == "I"
    assert re.findall(r'<li><span class="drafted (\w+)">', MARKS.legend()) == ["ssm0", "ssm1", "several"]


def test_tokens_are_marked_by_who_drafted_them() -> None:
    shown = tokens_html(drafted_answer().tokens, MARKS)
    assert shown == (
        'a<span class="drafted several" title="drafted by lookup and demo"> b</span>'
        '<span class="drafted ssm0" title="drafted by lookup"> d</span> &lt;f&gt;'
    )


def test_more_tokens_only_add_to_what_is_shown() -> None:
    """So that a page gets the new part alone."""
    tokens = drafted_answer().tokens
    shown = [tokens_html(tokens[:number], MARKS) for number in range(len(tokens) + 1)]
    assert all(longer.startswith(shorter) for shorter, longer in itertools.pairwise(shown))


def test_texts_never_become_tags() -> None:
    evil = "<img src=x onerror=alert(1)> ![i](http://a.example/i.png) [l](javascript:alert(1))"
    answer = answered(own_chunk(evil))
    answer.note = "error: <b>"
    shown = turns_html([Turn(evil, answer)], SsmMarks(["<i>"])) + SsmMarks(["<i>"]).legend()
    assert "<img" not in shown
    assert 'href="javascript' not in shown
    assert "<b>" not in shown
    assert "<i>" not in shown
    assert "<x>" not in tree_html(answered(own_chunk("<x>"), drafted_chunk([token("<x>", "lookup")], *TREE)), MARKS)


def test_markdown_is_shown_where_marks_are_not() -> None:
    shown = answer_html(answered(own_chunk("**bold**\n\n- one\n- two")), MARKS)
    tokens, prose = shown.split('<div class="markdown">')
    assert "**bold**" in tokens
    assert "<strong>bold</strong>" in prose
    assert prose.count("<li>") == 2


def test_half_a_character_at_the_end_is_shown() -> None:
    answer = answered(own_chunk("a"))
    answer.text += "�"
    assert "a�</div>" in answer_html(answer, MARKS)


def test_the_last_answer_is_left_out_while_it_comes() -> None:
    turns = [Turn("one", answered(own_chunk("first"))), Turn("two", answered(own_chunk("second")))]
    shown = turns_html(turns, MARKS, is_last_open=True)
    assert "first" in shown
    assert "two" in shown
    assert "second" not in shown
    assert "Ask something" in turns_html([], MARKS)


def test_notes() -> None:
    answer = drafted_answer()
    answer.finish_reason = FinishReason.LENGTH
    assert note_of(answer) == "4 tokens · 2.00 per step · 3 tokens/s · cut at the limit of tokens"
    stopped = Answer(note="stopped")
    assert note_of(stopped) == "stopped"
    assert "--" in statistics_html(Answer())
    assert "2 of 5" in statistics_html(drafted_answer())


def test_the_verdict_compares_tokens_and_speeds() -> None:
    fast, slow = drafted_answer(), drafted_answer()
    fast.usage, slow.usage = usage_of(101, 40, 500.0), usage_of(101, 101, 1000.0)
    assert "The same text, token for token. 2.00 times the speed." in verdict_html(fast, slow)
    slow.tokens = slow.tokens[:-1]
    assert "must not be" in verdict_html(fast, slow)
    # An answer of one token has no speed.
    slow.usage = usage_of(1, 1, 0.0)
    assert "speed" not in verdict_html(fast, slow)


def test_the_chart_has_a_cell_for_each_token_the_llms_own_at_the_foot() -> None:
    answer = drafted_answer()
    svg = ElementTree.fromstring(chart_svg(answer.steps, MARKS))
    cells = [rect for rect in svg.iter("rect") if rect.get("class", "").startswith("cell")]
    assert len(cells) == 4
    lowest = max(float(cell.get("y", "")) for cell in cells)
    assert [cell.get("class") for cell in cells if float(cell.get("y", "")) == lowest] == ["cell own", "cell own"]
    assert svg.get("aria-label") == "Tokens per step: 4 tokens in 2 steps, 2.00 on average"
    long = chart_svg([((),)] * 500, MARKS)
    assert long.count('class="cell') == 40
    ElementTree.fromstring(chart_svg((), MARKS))


def test_the_trees_accepted_path_runs_straight_along_the_first_row() -> None:
    shown = tree_html(drafted_answer(), MARKS)
    assert "Step 2: 5 tokens drafted, <strong>2 accepted</strong>, and the LLM added one." in shown
    svg = ElementTree.fromstring(shown[shown.index("<svg") : shown.index("</svg>") + 6])
    places = {}
    for group in svg.iter("g"):
        label = group.find("text")
        assert label is not None
        x, y = map(float, re.findall(r"[\d.]+", group.get("transform", "")))
        places[label.text] = (x, y, group.get("class", ""))
    assert list(dict.fromkeys(places)) == ["a", "␣c", "␣b", "␣x", "␣d", "␣e", "␣<f>"]
    first_row = places["a"][1]
    path = ["a", "␣b", "␣d", "␣<f>"]
    assert [label for label in places if places[label][1] == first_row] == path
    assert [places[label][0] for label in path] == sorted(places[label][0] for label in path)
    assert len({places[label][:2] for label in places}) == len(places)
    assert places["␣c"][1] == places["␣x"][1] > first_row
    assert [label for label in places if "accepted" in places[label][2]] == ["␣b", "␣d", "␣<f>"]
    assert svg.get("aria-label") == "A token tree of 5 tokens. The LLM accepted ␣b, ␣d and added ␣<f>."


def test_without_a_tree_that_is_said() -> None:
    assert "yet" in tree_html(Answer(), MARKS)
    assert "goes on by itself" in tree_html(answered(own_chunk("a")), MARKS)


def test_tokens_that_can_not_be_seen_have_signs() -> None:
    texts = {"\n": "↵", "  ": "␣␣", "\x07": "�", " internationalisation": "␣inter…"}
    for text, label in texts.items():
        chunk = drafted_chunk([token(text, "demo")], TREE[0], node(text, 0, "demo", accepted=True))
        assert f">{label}</text>" in tree_html(answered(chunk), MARKS)

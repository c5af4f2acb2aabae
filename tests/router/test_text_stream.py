"""Stop texts: the same cut however the text arrives."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from router.text_stream import StopMatcher, TextStream

_texts = st.text(alphabet="ab木", max_size=30)
_stops = st.lists(st.text(alphabet="ab木", min_size=1, max_size=4), max_size=4)


def _cut(text: str, stops: list[str]) -> str:
    """By the invariant's words: the first character at which a stop text is complete; the longest of those."""
    for end in range(1, len(text) + 1):
        complete = [stop for stop in stops if text[:end].endswith(stop)]
        if complete:
            return text[: end - max(map(len, complete))]
    return text


@given(_texts, _stops, st.lists(st.integers(1, 5), max_size=30))
def test_chunks_do_not_matter(text: str, stops: list[str], chunk_lens: list[int]) -> None:
    matcher, shown, position = StopMatcher(stops), "", 0
    for chunk_len in [*chunk_lens, len(text)]:
        shown += matcher.add(text[position : position + chunk_len])
        position += chunk_len
        # What is shown is certain, and only a possible beginning of a stop text is held back.
        assert _cut(text, stops).startswith(shown)
    shown += matcher.finish()
    assert shown == _cut(text, stops)
    assert matcher.is_stopped == (shown != text)


@given(_texts)
def test_without_stop_texts_nothing_is_held_back(text: str) -> None:
    assert StopMatcher([]).add(text) == text


def test_only_a_possible_beginning_is_held_back() -> None:
    matcher = StopMatcher(["\n\nUser:"])
    assert matcher.add("fine\n") == "fine"
    assert matcher.add("more\n\nUs") == "\nmore"
    assert matcher.add("ed") == "\n\nUsed"
    assert matcher.finish() == ""


class _Letters:
    def add(self, token_id: int) -> str:
        return chr(token_id)

    def finish(self) -> str:
        return "\ufffd"


def test_tokens_behind_the_stop_text_are_left_out() -> None:
    stream = TextStream(_Letters(), ["cd"])
    piece = stream.add([ord(letter) for letter in "abcdef"])
    assert (piece.token_texts, piece.text, piece.is_stopped) == (("a", "b", "c", "d"), "ab", True)


def test_the_end_shows_what_was_held_back() -> None:
    stream = TextStream(_Letters(), ["cd"])
    assert stream.add([ord("c")]).text == ""
    assert stream.finish() == "c\ufffd"

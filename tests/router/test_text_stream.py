"""Stop texts: the same cut however the text arrives."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from router.text_stream import StopMatcher, TextStream

_texts = st.text(alphabet="ab木", max_size=30)
_stops = st.lists(st.text(alphabet="ab木", min_size=1, max_size=4), max_size=4)


def _cut(text: str, stops: list[str], min_len: int = 0) -> str:
    """By the invariant's words: the first character after ``min_len`` at which a stop text is complete; the longest of those."""
    for end in range(min_len + 1, len(text) + 1):
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
    assert (matcher.stop_text is not None) == (shown != text)
    if matcher.stop_text is not None:
        assert text.startswith(shown + matcher.stop_text)


@given(_texts)
def test_without_stop_texts_nothing_is_held_back(text: str) -> None:
    assert StopMatcher([]).add(text) == text


def test_only_a_possible_beginning_is_held_back() -> None:
    matcher = StopMatcher(["\n\nUser:"])
    assert matcher.add("fine\n") == "fine"
    assert matcher.add("more\n\nUs") == "\nmore"
    assert matcher.add("ed") == "\n\nUsed"
    assert matcher.finish() == ""


class _Counted(str):
    """Knows how often a character or a part of it was looked at."""

    num_looks = 0

    def __getitem__(self, key: object) -> str:
        self.num_looks += 1
        return super().__getitem__(key)  # type: ignore[index]


def test_a_character_costs_the_same_however_long_stop_texts_are() -> None:
    """While one of them keeps 255 characters held back, and others begin anew at each."""
    stops = [_Counted(stop) for stop in ("a" * 255 + "c", "c" + "a" * 255, "aab" * 80, "aba" * 80)]
    text = ("a" * 300 + "aabaab") * 8
    matcher = StopMatcher(stops)
    shown = "".join(map(matcher.add, text)) + matcher.finish()
    assert shown == text
    assert max(stop.num_looks for stop in stops) <= 4 * len(text)


class _Letters:
    """A token is a character; ``rest`` is what the last flush brings."""

    def __init__(self, rest: str = "\ufffd") -> None:
        self._rest = rest

    def add(self, token_id: int) -> str:
        return chr(token_id)

    def finish(self) -> str:
        return self._rest


def test_tokens_behind_the_stop_text_are_left_out() -> None:
    stream = TextStream(_Letters(), ["cd"])
    piece = stream.add([ord(letter) for letter in "abcdef"])
    assert (piece.token_texts, piece.text, piece.stop_text) == (("a", "b", "c", "d"), "ab", "cd")


def test_the_end_shows_what_was_held_back() -> None:
    stream = TextStream(_Letters(), ["cd"])
    assert stream.add([ord("c")]).text == ""
    assert stream.finish().text == "c\ufffd"


@given(_texts, _stops, st.integers(0, 12), st.lists(st.integers(1, 5), max_size=30))
def test_stop_texts_count_from_min_tokens_on(text: str, stops: list[str], min_tokens: int, lens: list[int]) -> None:
    """A token a character. A stop text may begin before, but not end there."""
    stream, shown, position = TextStream(_Letters(""), stops, min_tokens), "", 0
    for chunk_len in [*lens, len(text)]:
        shown += stream.add([ord(letter) for letter in text[position : position + chunk_len]]).text
        position += chunk_len
    assert shown + stream.finish().text == _cut(text, stops, min_tokens)


def test_a_stop_text_that_the_last_flush_completes_is_found() -> None:
    stream = TextStream(_Letters(), ["b\ufffd", "x"])
    assert stream.add([ord("a"), ord("b")]).text == "a"
    rest = stream.finish()
    assert (rest.text, rest.stop_text) == ("", "b\ufffd")


def test_a_flush_within_min_tokens_completes_none() -> None:
    stream = TextStream(_Letters(), ["\ufffd"], min_tokens=2)
    stream.add([ord("a"), ord("b")])
    rest = stream.finish()
    assert (rest.text, rest.stop_text) == ("\ufffd", None)


def test_a_stop_token_has_no_text_and_no_stop_text_ends_in_it() -> None:
    stream = TextStream(_Letters(""), ["ab"])
    piece = stream.add([ord("x"), ord("a"), ord("b")], ends_with_stop_token=True)
    assert (piece.token_texts, piece.text, piece.stop_text) == (("x", "a", ""), "x", None)
    assert stream.finish().text == "a"

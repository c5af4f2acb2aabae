"""Long texts: other threads go on meanwhile, and what can't fit is refused early."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from specgrove.tokenizer import tokenizer as module
from tests.tokenizer.shapes import TOKENIZERS

DIGITS = "".join(str(index) for index in range(30_000))
TOKENIZER = TOKENIZERS["byte_level"]


@contextmanager
def heartbeats() -> Iterator[Callable[[], int]]:
    """Counts how often another thread got the interpreter. It gets it only where it is let go of, however long that takes."""
    num_beats, is_over = 0, False

    def beat() -> None:
        nonlocal num_beats
        while not is_over:
            num_beats += 1
            time.sleep(0)

    thread = threading.Thread(target=beat)
    interval_s = sys.getswitchinterval()
    thread.start()
    while num_beats == 0:
        time.sleep(0.001)
    sys.setswitchinterval(600)
    try:
        yield lambda: num_beats
    finally:
        sys.setswitchinterval(interval_s)
        is_over = True
        thread.join()


@pytest.mark.parametrize("name", ["byte_level", "byte_fallback", "metaspace_always", "word_pieces"])
def test_other_threads_go_on_while_a_long_text_is_tokenised(name: str) -> None:
    tokenizer = TOKENIZERS[name]
    with heartbeats() as num_beats:
        before = num_beats()
        tokenizer.encode(DIGITS)
        assert num_beats() > before


def test_other_threads_go_on_while_a_long_text_is_refused() -> None:
    with heartbeats() as num_beats:
        before = num_beats()
        with pytest.raises(ValueError, match="at most 100 fit"):
            TOKENIZER.encode(DIGITS, 100)
        assert num_beats() > before


def test_other_threads_go_on_while_a_long_conversation_is_tokenised() -> None:
    with heartbeats() as num_beats:
        before = num_beats()
        TOKENIZER.encode_chat([("user", DIGITS)])
        assert num_beats() > before


def test_other_threads_go_on_while_many_ids_are_decoded() -> None:
    ids = TOKENIZER.encode(DIGITS)
    with heartbeats() as num_beats:
        before = num_beats()
        text = TOKENIZER.decode(ids)
        assert num_beats() > before
    assert text == DIGITS


def test_a_long_text_that_cannot_fit_is_refused_by_its_beginning() -> None:
    with pytest.raises(ValueError, match=r"has more than (\d+) tokens; at most 1000 fit") as info:
        TOKENIZER.encode(DIGITS * 10, 1000)
    assert int(str(info.value).split()[3]) < 100_000
    with pytest.raises(ValueError, match=r"has 5 tokens; at most 4 fit"):
        TOKENIZER.encode("12345", 4)


@pytest.mark.parametrize("name", TOKENIZERS)
@settings(max_examples=40)  # of each of twelve tokenizers
@given(text=st.text(st.sampled_from("ab the\n木é😀1▁."), max_size=400))
def test_what_fits_is_never_refused(name: str, text: str) -> None:
    """Counting parts must not find more tokens than the whole text has."""
    tokenizer = TOKENIZERS[name]
    expected = tokenizer.encode(text)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_LONG_LEN", 0)
        patch.setattr(module, "_PART_LEN", 7)
        patch.setattr(module, "_NUM_TOKENS_AT_CUT", 4)
        assert tokenizer.encode(text, len(expected)) == expected
        if expected:
            with pytest.raises(ValueError, match=f"at most {len(expected) - 1} fit"):
                tokenizer.encode(text, len(expected) - 1)

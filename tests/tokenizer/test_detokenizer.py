"""For tokenizers of all shapes: the pieces of an output, joined, are what it adds to the prompt's text."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from router.text_stream import TextStream
from specgrove.tokenizer import Tokenizer
from tests.tokenizer.shapes import TOKENIZERS, byte_fallback


def streamed(tokenizer: Tokenizer, prompt: Sequence[int], output: Sequence[int]) -> str:
    detokenizer = tokenizer.detokenizer(prompt)
    return "".join([detokenizer.add(token_id) for token_id in output]) + detokenizer.finish()


def added_text(tokenizer: Tokenizer, prompt: list[int], output: list[int]) -> str:
    return tokenizer.decode(prompt + output)[len(tokenizer.decode(prompt)) :]


@pytest.mark.parametrize("name", TOKENIZERS)
@settings(max_examples=40)  # of each of twelve tokenizers
@given(data=st.data())
def test_an_output_is_what_it_adds_to_the_prompt(name: str, data: st.DataObject) -> None:
    """For any ids, those that mean nothing among them."""
    tokenizer = TOKENIZERS[name]
    ids = st.integers(0, tokenizer.vocab_size + 3)
    prompt, output = data.draw(st.lists(ids, max_size=20)), data.draw(st.lists(ids, max_size=30))
    assert streamed(tokenizer, prompt, output) == added_text(tokenizer, prompt, output)


@pytest.mark.parametrize("name", TOKENIZERS)
@settings(max_examples=40)  # of each of twelve tokenizers
@given(data=st.data())
def test_stop_texts_see_the_same_text_whatever_the_grouping(name: str, data: st.DataObject) -> None:
    tokenizer = TOKENIZERS[name]
    ids = st.integers(0, tokenizer.vocab_size - 1)
    prompt, output = data.draw(st.lists(ids, max_size=6)), data.draw(st.lists(ids, min_size=1, max_size=20))
    text = added_text(tokenizer, prompt, output)
    start = data.draw(st.integers(0, max(0, len(text) - 1)))
    stop = text[start : start + data.draw(st.integers(1, 4))]
    stream, shown = TextStream(tokenizer.detokenizer(prompt), [stop] if stop else []), ""
    while output and "stopped" not in shown:
        num = data.draw(st.integers(1, len(output)))
        piece = stream.add(output[:num])
        output = output[num:]
        shown += piece.text
        if piece.stop_text is not None:
            break
    else:
        shown += stream.finish().text
    assert shown == (text[: text.index(stop)] if stop else text)


def test_the_space_between_prompt_and_output_stays() -> None:
    """Decoded alone, the output of a tokenizer as Llama 2's begins without it."""
    tokenizer = byte_fallback()
    prompt = tokenizer.encode("a the")
    following = tokenizer.encode("the")
    assert tokenizer.decode(following) == "the"
    assert streamed(tokenizer, prompt, following) == " the"
    assert streamed(tokenizer, [1], following) == "the", "only the beginning precedes it"


def test_a_character_that_the_prompt_began_is_counted_there() -> None:
    tokenizer = TOKENIZERS["byte_level"]
    ids = tokenizer.encode("€")
    first, rest = ids[:1], [*ids[1:], *tokenizer.encode("x")]
    assert len(ids) > 1
    assert tokenizer.decode(first) == "\ufffd"
    assert streamed(tokenizer, first, rest) == "x"
    assert streamed(tokenizer, first, tokenizer.encode("x")) == "x"
    assert streamed(tokenizer, first, []) == ""


def test_only_the_end_of_a_prompt_is_looked_at() -> None:
    """A long prompt costs no more than a short one."""

    class Ids(Sequence[int]):
        def __len__(self) -> int:
            return 1_000_000

        def __getitem__(self, index: int) -> int:  # type: ignore[override]
            assert index > 999_900
            return 5

    assert TOKENIZERS["byte_fallback"].detokenizer(Ids()).add(0) == ""

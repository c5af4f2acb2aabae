"""What may follow in a structured output: by bytes that are the tokenizer's own, and the same whatever was tried before."""

from __future__ import annotations

import json
import random
import re
import threading
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from specgrove.models.weights.gguf_file import GgufFile
from specgrove.structures import grammars
from specgrove.structures.grammars import GrammarCompiler, OutputMatcher, check_structure, check_text
from specgrove.structures.structured_output import ANY_JSON_OBJECT, StructuredOutput
from specgrove.tokenizer import Tokenizer
from tests.models.folders import test_gguf_tokenizer as gguf_files
from tests.structures.examples import choice, fits, grammar, random_structure, regex, schema, tiny_vocabulary
from tests.tokenizer import shapes

TINY = tiny_vocabulary()
COMPILER = GrammarCompiler(TINY)


def written(tokenizer: Tokenizer, token_ids: Sequence[int]) -> str:
    """What tokens add to a text."""
    before = tokenizer.encode("ab")
    whole = tokenizer.decode([*before, *token_ids])
    return whole[len(tokenizer.decode(before)) :]


def ids_of(matcher: OutputMatcher) -> list[int]:
    return [int(token_id) for token_id in matcher.allowed().tokens.nonzero()[0]]


def random_output(matcher: OutputMatcher, rng: random.Random, max_tokens: int = 200) -> tuple[list[int], bool]:
    """Any of the allowed tokens each time; whether it came to its end."""
    output: list[int] = []
    while len(output) < max_tokens:
        ids, may_end = ids_of(matcher), matcher.allowed().may_end
        if may_end and (not ids or rng.random() < 0.3):
            return output, True
        output.append(rng.choice(ids))
        matcher.take(output[-1:])
    return output, False


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32))
def test_what_comes_to_its_end_fits(seed: int) -> None:
    rng = random.Random(seed)
    structure = random_structure(rng)
    output, has_ended = random_output(COMPILER.matcher(structure), rng)
    if has_ended:
        assert fits(structure, TINY.decode(output)), TINY.decode(output)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32))
def test_history_changes_nothing(seed: int) -> None:
    """Tokens tried and taken back, at once or one by one, with and without a look at what may follow."""
    rng = random.Random(seed)
    structure = random_structure(rng)
    matcher = COMPILER.matcher(structure)
    output, _ = random_output(matcher, rng, 40)
    for _ in range(4):
        size = rng.randrange(len(output) + 1)
        if size < matcher.num_tokens:
            matcher.rewind(size)
        else:
            matcher.take(output[matcher.num_tokens : size])
        tried = [*output[size : size + 3], *rng.sample(range(TINY.vocab_size), 2)]
        num_possible = matcher.num_possible(tried)
        fresh = GrammarCompiler(TINY).matcher(structure)
        if rng.random() < 0.5:
            fresh.take(output[:size])
        else:
            for token_id in output[:size]:
                fresh.allowed()
                fresh.take([token_id])
        assert (ids_of(matcher), matcher.allowed().may_end) == (ids_of(fresh), fresh.allowed().may_end)
        fresh.take(tried[:num_possible])
        assert num_possible == len(tried) or tried[num_possible] not in ids_of(fresh)


TOKENIZERS: dict[str, Callable[[], Tokenizer]] = {
    "byte-level": shapes.byte_level,
    "byte-level with added tokens": shapes.byte_level_with_added_tokens,
    "byte-level in a sequence": shapes.byte_level_in_a_sequence,
    "byte fallback, as Llama 2": shapes.byte_fallback,
    "byte fallback, as Gemma": lambda: shapes.byte_fallback(strips=False),
    "metaspace": lambda: shapes.metaspace("always"),
}


@pytest.mark.parametrize("name", TOKENIZERS)
def test_bytes_are_the_tokenizers_own(name: str) -> None:
    """Of any tokenizer an output's text is what was asked for, also where a word begins it and characters are of several tokens."""
    tokenizer = TOKENIZERS[name]()
    texts = ["the quick", "the", " the quick", "a b", "\n"]
    if "byte" in name:
        texts += ["木 café 😀", '{"a": [1, 2]}']
    for text in texts:
        matcher = GrammarCompiler(tokenizer).matcher(choice(text, "b" + text))
        rng = random.Random(0)
        for _ in range(5):
            output, has_ended = random_output(matcher, rng)
            assert has_ended
            assert written(tokenizer, output) in (text, "b" + text)
            assert tokenizer.special_token_ids.isdisjoint(output)
            matcher.rewind(0)


@pytest.mark.parametrize("name", TOKENIZERS)
def test_what_must_come_is_divided_into_the_tokenizers_tokens(name: str) -> None:
    tokenizer = TOKENIZERS[name]()
    head = tokenizer.encode("b")
    for text in ("the quick", " the quick", "a"):
        tail = tokenizer.encode("b" + text)[len(head) :]
        found = tokenizer.token_trie.tokenize_str(text)
        assert written(tokenizer, found) == text
        # Where the tokenizer would lose characters, any tokens will do.
        assert found == tail or tokenizer.decode(tail).strip() != text.strip()


@pytest.mark.parametrize("write", [gguf_files.byte_level, gguf_files.sentencepiece])
def test_bytes_of_tokenizers_made_from_gguf(write: Callable[[Path], GgufFile], tmp_path: Path) -> None:
    tokenizer = gguf_files.tokenizer(write(tmp_path / "model.gguf"))
    for text in (" in 1234 ways", "a\n\nb", "naïve"):
        output, has_ended = random_output(GrammarCompiler(tokenizer).matcher(choice(text)), random.Random(1))
        assert has_ended
        assert written(tokenizer, output) == text


def test_ids_without_a_token_and_special_tokens_never_come() -> None:
    tokenizer = shapes.byte_fallback_with_holes()
    allowed = set(ids_of(GrammarCompiler(tokenizer).matcher(regex(r"(.|\n)*"))))
    assert allowed.isdisjoint(tokenizer.special_token_ids)
    assert all(tokenizer.token_bytes(token_id) for token_id in allowed)
    assert {tokenizer.decode([1, token_id]).strip() for token_id in allowed} >= {"b", "<|im_end|>", "spaced"}


def test_a_grammar_may_name_special_tokens() -> None:
    matcher = COMPILER.matcher(grammar('start: "ab" <bos>'))
    matcher.take(TINY.encode("ab"))
    assert ids_of(matcher) == [TINY.special_token_id("<bos>")]


@pytest.mark.parametrize("text", ["a/b.c*", "(x)[y]{2}", 'say "no"', "a\\d", "-+<>", "", "two  words"])
def test_a_text_to_choose_means_itself(text: str) -> None:
    matcher = COMPILER.matcher(choice(text))
    matcher.take(TINY.encode(text))
    assert matcher.allowed().may_end
    assert not ids_of(matcher)


def test_blanks_in_json_have_an_end() -> None:
    matcher = COMPILER.matcher(ANY_JSON_OBJECT)
    matcher.take(TINY.encode("{" + 64 * " "))
    assert TINY.encode(" ")[0] not in ids_of(matcher)
    assert TINY.encode("}")[0] in ids_of(matcher)


WRONG = {
    "unclosed group": regex("(a"),
    "look-around": regex("(?=a)b"),
    "backreferences": regex(r"(a)\1"),
    "Unimplemented keys": schema({"type": "array", "uniqueItems": True}),
    "Invalid type: objec": schema({"type": "objec"}),
    "Unsatisfiable": schema({"type": "string", "minLength": 3, "maxLength": 2}),
    "does not fetch": schema({"$ref": "http://example.org/schema"}),
    "unknown name": grammar("start: nothing"),
    "is neither Lark nor GBNF": grammar("start nothing"),
    "Expected token": grammar("start: a(\na: b"),
    "Unexpected end of input": grammar('root ::= "a'),
    "nested too deeply": grammar("root ::= " + "(" * 20_000),
    "there is no output": regex(r"[^\s\S]"),
}


@pytest.mark.parametrize("problem", WRONG)
def test_what_can_not_be_is_told_in_a_line(problem: str) -> None:
    with pytest.raises(ValueError, match=problem) as told:
        check_structure(TINY, WRONG[problem])
    assert "\n" not in str(told.value)
    assert len(str(told.value)) < 300


def follow(matcher: OutputMatcher, token_ids: Iterable[int]) -> None:
    for token_id in token_ids:
        matcher.allowed()
        matcher.take([token_id])


@pytest.mark.parametrize("problem", [name for name in WRONG if name != "there is no output"])
def test_most_of_it_is_told_without_a_vocabulary(problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        check_text(WRONG[problem])
    check_text(grammar('start: "ab" <|im_end|>'))


def test_what_takes_too_much_is_given_up_and_is_nobody_elses_loss() -> None:
    """Its automaton doubles with every letter: it is too large for any output, and outputs of one structure share it."""
    structure = regex("(.*a.{30})|(.*b.{31}c)")
    rng = random.Random(2)
    letters = [TINY.encode(letter)[0] for letter in "abc"]
    lengths = []
    for _ in range(3):
        matcher = COMPILER.matcher(structure)
        with pytest.raises(ValueError, match="too many states"):
            follow(matcher, (rng.choice(letters) for _ in range(100_000)))
        lengths.append(matcher.num_tokens)
    assert min(lengths) > 100


def test_the_compiled_are_kept_but_not_for_ever() -> None:
    compiler = GrammarCompiler(TINY)
    kept: dict[StructuredOutput, object] = compiler._kept  # type: ignore[assignment]
    for number in range(40):
        compiler.matcher(regex(f"a{number}"))
        compiler.matcher(regex("a0"))
    assert len(kept) == 16
    assert regex("a0") in kept


def test_those_in_use_are_compiled_once(monkeypatch: pytest.MonkeyPatch) -> None:
    compiler = GrammarCompiler(TINY)
    structures = [regex(f"a{number}") for number in range(20)]
    held = [compiler.matcher(structure) for structure in structures]

    def compiled_again(structure: StructuredOutput) -> str:
        raise AssertionError(structure)

    monkeypatch.setattr(grammars, "_grammar_of", compiled_again)
    assert all(ids_of(compiler.matcher(structure)) for structure in structures)
    held.clear()
    with pytest.raises(AssertionError, match="a0"):
        compiler.matcher(structures[0])


def test_requests_that_come_together_compile_once(monkeypatch: pytest.MonkeyPatch) -> None:
    compiler = GrammarCompiler(TINY)
    compiled: list[StructuredOutput] = []
    compile_alone = grammars._grammar_of
    barrier = threading.Barrier(4)

    def counted(structure: StructuredOutput) -> str:
        assert compiler._compiling.locked()
        compiled.append(structure)
        return compile_alone(structure)

    def matcher() -> OutputMatcher:
        barrier.wait()
        return compiler.matcher(regex("[ab]{3}"))

    monkeypatch.setattr(grammars, "_grammar_of", counted)
    with ThreadPoolExecutor(4) as threads:
        found = [future.result() for future in [threads.submit(matcher) for _ in range(4)]]
    assert [ids_of(each) for each in found] == [ids_of(found[0])] * 4
    assert compiled == [regex("[ab]{3}")]


def test_json_is_written_as_its_schema_orders_it() -> None:
    ordered = {"type": "object", "properties": {"b": {"const": 1}, "a": {"const": 2}}, "required": ["b", "a"]}
    matcher = COMPILER.matcher(schema(ordered | {"additionalProperties": False}))
    output, has_ended = random_output(matcher, random.Random(3))
    assert has_ended
    assert list(json.loads(TINY.decode(output))) == ["b", "a"]
    assert re.match(r'\{\s*"b"', TINY.decode(output))


@pytest.mark.parametrize(
    ("text", "right", "wrong"),
    [
        (r'root ::= "\u0041BC"', "ABC", "BC"),  # without zeros it would be U+41BC
        (r'root ::= "\x41" [\u0042-\u0044]', "AC", "AE"),
        (r'root ::= "\u00e9" | "\U0001F600" | "\xe8"', "\u00e9", "e"),
        (r'root ::= "\u0022\u005c" [\u005d]', '"\\]', '"]'),
        (r'root ::= "\\u0041"', r"\u0041", "A"),
    ],
)
def test_characters_of_gbnf_by_their_numbers(text: str, right: str, wrong: str) -> None:
    tokenizer = Tokenizer(shapes.byte_level_backend().to_str().encode(), {"eos_token": "</s>"}, None)

    def fits_whole(output: str) -> bool:
        matcher = GrammarCompiler(tokenizer).matcher(grammar(text))
        token_ids = tokenizer.encode(output)
        return matcher.num_possible(token_ids) == len(token_ids)

    assert fits_whole(right)
    assert not fits_whole(wrong)

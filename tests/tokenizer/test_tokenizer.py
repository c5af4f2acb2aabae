"""Encoding, decoding and folders on small tokenizers made here, and the demo model's against transformers."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest
import tokenizers
from hypothesis import given
from hypothesis import strategies as st

from specgrove.models.folders.hub import DEMO_LLM, resolve_model
from specgrove.tokenizer import ChatOptions, Tokenizer
from tests.tokenizer.shapes import TOKENIZERS, byte_level_backend


def streamed(tokenizer: Tokenizer, ids: list[int]) -> str:
    detokenizer = tokenizer.detokenizer()
    return "".join(detokenizer.add(token_id) for token_id in ids) + detokenizer.finish()


@pytest.mark.parametrize("name", ["byte_level", "byte_fallback"])
@given(text=st.text(st.characters(exclude_categories=["Cs"]), max_size=30))
def test_text_survives_the_round_trip_and_no_piece_holds_half_a_character(name: str, text: str) -> None:
    tokenizer = TOKENIZERS[name]
    text = text.replace("�", "").replace("▁", "")
    ids = tokenizer.encode(text)
    detokenizer = tokenizer.detokenizer()
    pieces = [detokenizer.add(token_id) for token_id in ids]
    assert "".join(pieces) == tokenizer.decode(ids) == text
    assert not any("�" in piece for piece in pieces)


def test_valid_bytes_before_an_invalid_one_stay_as_they_were_streamed() -> None:
    tokenizer = TOKENIZERS["byte_fallback"]
    ids = [3 + 0x41, 3 + 0xE4]
    assert tokenizer.decode(ids) == streamed(tokenizer, ids) == "A�"


@pytest.mark.parametrize("name", sorted(TOKENIZERS))
def test_tokens_stand_for_bytes(name: str) -> None:
    """Those of a text, joined, are the text, but for the space that some tokenizers put before it."""
    tokenizer = TOKENIZERS[name]
    text = "the quick café 木 the"
    ids = [token_id for token_id in tokenizer.encode(text) if token_id not in tokenizer.special_token_ids]
    joined = b"".join(tokenizer.token_bytes(token_id) for token_id in ids).decode(errors="replace")
    assert joined in (tokenizer.decode(ids), f" {tokenizer.decode(ids)}")


def test_a_special_token_stands_for_what_it_is_written_as() -> None:
    assert TOKENIZERS["byte_level"].token_bytes(0) == b"<s>"


def test_special_tokens_have_no_text_unless_kept() -> None:
    tokenizer = TOKENIZERS["byte_level"]
    ids = [0, *tokenizer.encode("the fox"), 1]
    assert tokenizer.decode(ids) == "the fox"
    assert tokenizer.decode(ids, keep_special_tokens=True) == "<s>the fox</s>"
    assert tokenizer.detokenizer().add(1) == ""


def test_chat_is_rendered_like_transformers_do() -> None:
    tokenizer = TOKENIZERS["byte_level"]
    assert tokenizer.render_chat([("user", " hi "), ("assistant", "ho")]) == "<s>[user] hi\n[assistant] ho\n[assistant]"
    ids = tokenizer.encode_chat([("user", "hi")], ChatOptions(add_generation_prompt=False))
    assert ids[0] == 0
    assert tokenizer.decode(ids) == "[user] hi\n"


def test_chat_errors_are_clear() -> None:
    with pytest.raises(ValueError, match="unknown role robot"):
        TOKENIZERS["byte_level"].encode_chat([("robot", "hi")])
    assert not TOKENIZERS["byte_fallback"].has_chat_template
    with pytest.raises(ValueError, match="no chat template; send the prompt as raw text"):
        TOKENIZERS["byte_fallback"].encode_chat([("user", "hi")])


CHAT_TEMPLATES = [
    "{% for m in messages %}<{{ m.role }}>{{ m.content }}</{{ m.role }}>\n{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}",
    "{% for m in messages %}<{{ m.role }}>{{ m['content'] | trim }}</{{ m.role }}>\n{% endfor %}",
    "{% if thinking is defined and thinking is false %}quick {{ depth }} {{ tools[0].name }}{% endif %}"
    "{% for m in messages %}{{ m.name }}: {{ m.content }}\n{% endfor %}",
]


@pytest.mark.parametrize("template", CHAT_TEMPLATES)
@pytest.mark.parametrize("content", ["The sky", " The sky is ", "", "a\n"])
def test_a_continued_message_and_variables_are_rendered_as_transformers_do(template: str, content: str) -> None:
    from transformers.utils.chat_template_utils import render_jinja_template

    byte_level = TOKENIZERS["byte_level"]
    tokenizer = Tokenizer(byte_level._tokenizer.to_str().encode(), {}, template)
    messages = [{"role": "tool", "content": "42", "name": "sum"}, {"role": "assistant", "content": content}]
    variables: dict[str, object] = {"thinking": False, "depth": 3, "tools": [{"name": "add"}]}

    def expected(**settings: object) -> str:
        rendered, _ = render_jinja_template(conversations=[messages], chat_template=template, **settings, **variables)
        text: str = rendered[0]
        return text

    for add in (True, False):
        ours = tokenizer.render_chat(messages, ChatOptions(add, template_kwargs=variables))
        assert ours == expected(add_generation_prompt=add)
    ours = tokenizer.render_chat(messages, ChatOptions(False, True, variables))
    assert ours == expected(continue_final_message=True)
    assert messages[-1]["content"] == content


def test_variables_cannot_replace_the_conversation() -> None:
    tokenizer = Tokenizer(TOKENIZERS["byte_level"]._tokenizer.to_str().encode(), {}, "{{ messages[0].content }}")
    assert (
        tokenizer.render_chat([("user", "hi")], ChatOptions(template_kwargs={"messages": [{"content": "no"}]})) == "hi"
    )


def test_a_message_that_the_template_leaves_out_cannot_be_continued() -> None:
    tokenizer = Tokenizer(TOKENIZERS["byte_level"]._tokenizer.to_str().encode(), {}, "{{ messages[0].content }}")
    with pytest.raises(ValueError, match="leaves out the final message"):
        tokenizer.render_chat([("user", "hi"), ("assistant", "ho")], ChatOptions(False, True))


def test_folder_errors_are_clear(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no tokenizer\.json in"):
        Tokenizer.from_folder(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(ValueError, match="is not a tokenizer"):
        Tokenizer.from_folder(tmp_path)


def test_folder_with_the_template_in_the_config(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text(TOKENIZERS["byte_level"]._tokenizer.to_str())
    templates = [{"name": "tool_use", "template": "no"}, {"name": "default", "template": "{{ messages[0].content }}!"}]
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"chat_template": templates}))
    tokenizer = Tokenizer.from_folder(tmp_path)
    assert tokenizer.decode(tokenizer.encode_chat([("user", "hi")])) == "hi!"
    assert len(tokenizer.vocab_sha256) == 64


@pytest.fixture(scope="module")
def demo_folder() -> Path:
    return resolve_model(DEMO_LLM, cache_dir=Path.home() / ".cache" / "specgrove", progress=print)


SAMPLES = [
    "Hello, world!",
    "  leading and trailing  ",
    "def f(x):\n\treturn x  # ünïcödé",
    "中文字符 😀👩‍👩‍👧 عربى",
    "<|im_start|>user\nhi<|im_end|>",
    "",
]


def test_demo_model_is_tokenised_like_transformers_do(demo_folder: Path) -> None:
    from transformers import AutoTokenizer

    reference = AutoTokenizer.from_pretrained(demo_folder)
    tokenizer = Tokenizer.from_folder(demo_folder)
    assert tokenizer.vocab_size == len(reference)
    for text in SAMPLES:
        ids = tokenizer.encode(text)
        assert ids == reference(text)["input_ids"]
        assert tokenizer.decode(ids) == reference.decode(ids, skip_special_tokens=True)
        assert tokenizer.decode(ids, keep_special_tokens=True) == reference.decode(ids)
        assert streamed(tokenizer, ids) == tokenizer.decode(ids)
    for messages in (
        [("user", "Why is the sky blue?")],
        [("system", "Be brief."), ("user", " hi "), ("assistant", "Hello!"), ("user", "bye")],
    ):
        conversation = [{"role": role, "content": content} for role, content in messages]
        for add_generation_prompt in (True, False):
            expected = reference.apply_chat_template(
                conversation, add_generation_prompt=add_generation_prompt, return_dict=False
            )
            assert tokenizer.encode_chat(messages, ChatOptions(add_generation_prompt)) == expected


def test_demo_model_joined_pieces_equal_decode_for_random_ids(demo_folder: Path) -> None:
    tokenizer = Tokenizer.from_folder(demo_folder)
    generator = random.Random(0)
    for _ in range(200):
        ids = [generator.randrange(tokenizer.vocab_size) for _ in range(generator.randrange(60))]
        assert streamed(tokenizer, ids) == tokenizer.decode(ids)


def test_the_digest_is_of_tokens_and_ids_not_of_files() -> None:
    plain = tokenizers.Tokenizer(tokenizers.models.WordLevel({"a": 0, "b": 1}, unk_token="a"))
    spaced = json.dumps(json.loads(plain.to_str()), indent=4).encode()
    digests = [Tokenizer(content, {}, None).vocab_sha256 for content in (plain.to_str().encode(), spaced)]
    assert digests[0] == digests[1]
    swapped = tokenizers.Tokenizer(tokenizers.models.WordLevel({"a": 1, "b": 0}, unk_token="a"))
    assert Tokenizer(swapped.to_str().encode(), {}, None).vocab_sha256 != digests[0]
    plain.add_tokens(["c"])
    assert Tokenizer(plain.to_str().encode(), {}, None).vocab_sha256 != digests[0]


def test_a_text_has_the_same_tokens_each_time() -> None:
    """Files may keep the dropout that a tokenizer was trained with."""
    model = tokenizers.models.BPE(vocab={"a": 0, "b": 1, "ab": 2}, merges=[("a", "b")], dropout=0.5)
    tokenizer = Tokenizer(tokenizers.Tokenizer(model).to_str().encode(), {}, None)
    assert {tuple(tokenizer.encode("ab" * 8)) for _ in range(20)} == {(2,) * 8}


@pytest.mark.parametrize("decoder", [None, "of Llama", "Fuse"])
@pytest.mark.parametrize("place", ["pre_tokenizer", "normalizer", "in a sequence"])
def test_bytes_become_text_whatever_decoder_a_file_keeps(place: str, decoder: str | None) -> None:
    """Some files were saved with the decoder of another kind of tokenizer, or none."""
    content = json.loads(byte_level_backend().to_str())
    by_bytes = content["pre_tokenizer"]
    if place == "normalizer":
        content |= {"pre_tokenizer": None, "normalizer": {"type": "ByteLevel"}}
    elif place == "in a sequence":
        content["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": [by_bytes]}
    strip = {"type": "Strip", "content": " ", "start": 1, "stop": 0}
    replace = {"type": "Replace", "pattern": {"String": "▁"}, "content": " "}
    parts = [replace, {"type": "ByteFallback"}, {"type": "Fuse"}, strip]
    content["decoder"] = {"of Llama": {"type": "Sequence", "decoders": parts}, "Fuse": {"type": "Fuse"}}.get(
        decoder or ""
    )
    tokenizer = Tokenizer(json.dumps(content).encode(), {}, None)
    text = " naïve 木 😀 the fox\n"
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == text
    detokenizer = tokenizer.detokenizer()
    assert "".join([detokenizer.add(token_id) for token_id in ids]) + detokenizer.finish() == text

"""Tokenizers from a GGUF file's metadata give the model's own ids, say what ends an output, and refuse what they can't know."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import gguf
import pytest
import tokenizers

from specgrove.models.errors import UnsupportedModelError
from specgrove.models.folders.gguf_model import write_tokenizer
from specgrove.models.folders.gguf_tokenizer import end_ids, special_ids, tokenizer_of
from specgrove.models.folders.hub import ModelNotFoundError, resolve_model
from specgrove.models.weights.gguf_file import GgufFile
from specgrove.tokenizer import Tokenizer
from tests.models.gguf_writing import save_tiny_gguf

QWEN_FILE = Path("/work/models/qwen2.5-coder-0.5b-instruct.gguf")
NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = range(1, 7)
TEXTS = [
    "in 1234 ways", "a!\n\n\nb", "I'LL we'll", "  two  spaces ", "\tx\r\n", "na\u00efve e\u0301", "\u4f60\u597d\uff0c1\u4e16", "x_y(12)",
    "<|end|>", "<|end|> 12345<tool>in", "",
]  # fmt: skip
ALPHABET = sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet())
MERGES = ["1 2", "12 3", "123 4", "Ċ Ċ", "! ĊĊ", "i n", "Ġ in", "Ġ Ġ", "Ã ¯", "Ã ©"]
BYTE_LEVEL = [*ALPHABET, *(merge.replace(" ", "") for merge in MERGES), "xyz"]


def written(path: Path, model: str | None, tokens: list[str], kinds: list[int], **values: Any) -> GgufFile:
    """A file of a tokenizer alone. Keys without a dot belong to ``tokenizer.ggml``."""
    architecture = values.pop("architecture", "llama")
    writer = gguf.GGUFWriter(path, architecture)
    if model is not None:
        writer.add_tokenizer_model(model)
    writer.add_token_list(tokens)
    writer.add_token_types(kinds)
    for name, value in values.items():
        key = f"tokenizer.{name}" if name == "chat_template" else f"tokenizer.ggml.{name}"
        if isinstance(value, bool):
            writer.add_bool(key, value)
        elif isinstance(value, int):
            writer.add_uint32(key, value)
        elif isinstance(value, str):
            writer.add_string(key, value)
        else:
            writer.add_array(key, value)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return GgufFile(path)


def byte_level(path: Path, more: tuple[tuple[str, int], ...] = (("<|end|>", CONTROL),), **values: Any) -> GgufFile:
    tokens = [*BYTE_LEVEL, *(token for token, _ in more)]
    kinds = [NORMAL] * len(BYTE_LEVEL) + [kind for _, kind in more]
    return written(path, "gpt2", tokens, kinds, merges=MERGES, **values)


def tokenizer(file: GgufFile) -> Tokenizer:
    files = tokenizer_of(file)
    return Tokenizer(
        json.dumps(files.tokenizer).encode(), dict(files.config), files.chat_templates.get("chat_template.jinja")
    )


def pieces(file: GgufFile, text: str) -> list[str]:
    tokens = file.metadata.texts("tokenizer.ggml.tokens")
    return [tokens[token_id] for token_id in tokenizer(file).encode(text)]


def test_qwen2s_ids_are_transformers(tmp_path: Path) -> None:
    from transformers import AddedToken, Qwen2Tokenizer

    file = byte_level(tmp_path / "q.gguf", (("<|end|>", CONTROL), ("<tool>", USER_DEFINED)), pre="qwen2")
    vocab = {token: index for index, token in enumerate(BYTE_LEVEL)}
    special = dict.fromkeys(("unk_token", "eos_token", "pad_token"), "<|end|>")
    reference = Qwen2Tokenizer(vocab=vocab, merges=[tuple(merge.split(" ")) for merge in MERGES], **special)
    reference.add_tokens([AddedToken("<tool>", special=False, normalized=False)])
    ours = tokenizer(file)
    for text in TEXTS:
        assert ours.encode(text) == reference(text)["input_ids"], text
        assert ours.decode(ours.encode(text)) == reference.decode(ours.encode(text), skip_special_tokens=True)
    assert ours.special_token_ids == {len(BYTE_LEVEL)}


def test_llama_3s_ids_are_those_of_its_pattern(tmp_path: Path) -> None:
    from transformers.convert_slow_tokenizer import TikTokenConverter

    pattern = TikTokenConverter("unused").pattern
    model = tokenizers.models.BPE(
        {token: index for index, token in enumerate(BYTE_LEVEL)}, [tuple(m.split(" ")) for m in MERGES], ignore_merges=True
    )  # fmt: skip
    reference = tokenizers.Tokenizer(model)
    split = tokenizers.pre_tokenizers.Split(tokenizers.Regex(pattern), "isolated")
    byte_level_step = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    reference.pre_tokenizer = tokenizers.pre_tokenizers.Sequence([split, byte_level_step])
    ours = tokenizer(byte_level(tmp_path / "l.gguf", pre="llama-bpe", add_bos_token=False))
    for text in (*TEXTS[:8], "xyz", "1234567"):
        assert ours.encode(text) == reference.encode(text).ids, text


@pytest.mark.parametrize(
    ("pre", "digits", "marks", "unmerged"),
    [
        ("qwen2", ["1", "2", "3", "4"], ["!ĊĊ"], ["x", "y", "z"]),
        ("llama-bpe", ["123", "4"], ["!ĊĊ"], ["xyz"]),
        ("smollm", ["1", "2", "3", "4"], ["!", "ĊĊ"], ["x", "y", "z"]),
        ("gpt-2", ["1234"], ["!", "ĊĊ"], ["x", "y", "z"]),
        ("tekken", ["1", "2", "3", "4"], ["!ĊĊ"], ["xyz"]),
        ("deepseek-coder", ["1", "2", "3", "4"], ["!", "Ċ", "Ċ"], ["x", "y", "z"]),
    ],
)
def test_each_name_divides_text_its_own_way(
    pre: str, digits: list[str], marks: list[str], unmerged: list[str], tmp_path: Path
) -> None:
    file = byte_level(tmp_path / "t.gguf", pre=pre, add_bos_token=False)
    assert [pieces(file, text) for text in ("1234", "!\n\n", "xyz")] == [digits, marks, unmerged]
    is_composed = pre == "qwen2"  # NFC
    assert (pieces(file, "e\u0301") == pieces(file, "\u00e9")) == is_composed
    assert tokenizer(file).decode(tokenizer(file).encode("na\u00efve 1!\n")) == "na\u00efve 1!\n"


@pytest.mark.parametrize(("pre", "adds_bos"), [("llama-bpe", True), ("qwen2", False), ("smollm", False)])
def test_where_the_file_is_silent_llama_3_alone_begins_with_bos(pre: str, adds_bos: bool, tmp_path: Path) -> None:
    bos = len(BYTE_LEVEL)
    for said, expected in ((None, adds_bos), (True, True), (False, False)):
        values = {} if said is None else {"add_bos_token": said}
        file = byte_level(tmp_path / "t.gguf", pre=pre, bos_token_id=bos, **values)
        assert (tokenizer(file).encode("1")[0] == bos) == expected
        assert tokenizer_of(file).config["add_bos_token"] == expected


def test_a_name_that_is_not_known_is_refused_and_silence_is_warned_of(tmp_path: Path) -> None:
    with pytest.raises(
        UnsupportedModelError, match=r"divides text as 'novel' .*not known, only llama3, .*config\.json"
    ):
        tokenizer_of(byte_level(tmp_path / "t.gguf", pre="novel"))
    for values in ({}, {"pre": "default"}):
        (warning,) = tokenizer_of(byte_level(tmp_path / "t.gguf", **values)).warnings
        assert "GPT-2's way is taken, and ids may differ" in warning
    messages: list[str] = []
    save_tiny_gguf(tmp_path / "tiny.gguf", "Q8_0", metadata={"tokenizer.ggml.pre": "default"})
    resolve_model(str(tmp_path / "tiny.gguf"), cache_dir=tmp_path / "cache", progress=messages.append)
    assert any(message.startswith("warning: tiny.gguf says only 'default'") for message in messages)
    save_tiny_gguf(tmp_path / "tiny.gguf", "Q8_0", metadata={"tokenizer.ggml.pre": "novel"})
    with pytest.raises(ModelNotFoundError, match="divides text as 'novel'"):
        resolve_model(str(tmp_path / "tiny.gguf"), cache_dir=tmp_path / "cache", progress=print)


@pytest.mark.parametrize("model", ["bert", "t5", "rwkv"])
def test_other_kinds_are_refused_by_name(model: str, tmp_path: Path) -> None:
    with pytest.raises(UnsupportedModelError, match=f"of the kind '{model}'"):
        tokenizer_of(written(tmp_path / "t.gguf", model, ["a"], [NORMAL]))
    with pytest.raises(UnsupportedModelError, match="has no tokenizer"):
        tokenizer_of(written(tmp_path / "t.gguf", None, ["a"], [NORMAL]))


def test_ends_are_those_that_are_named_and_those_whose_text_says_so(tmp_path: Path) -> None:
    ends = (("<|end_of_text|>", CONTROL), ("<|eot_id|>", CONTROL), ("<|im_start|>", CONTROL), ("</s>", NORMAL))
    first = len(BYTE_LEVEL)
    silent = byte_level(tmp_path / "t.gguf", ends, pre="llama-bpe", eos_token_id=first)
    assert special_ids(silent)["eos_token_id"] == first
    assert end_ids(silent) == [first, first + 1]  # there is no eot_token_id key
    named = byte_level(tmp_path / "t.gguf", ends, pre="llama-bpe", eos_token_id=first, eot_token_id=first + 2)
    assert special_ids(named)["eos_token_id"] == [first, first + 2]
    assert end_ids(named) == [first, first + 2, first + 1]
    beyond = byte_level(tmp_path / "t.gguf", (), pre="qwen2", eos_token_id=1 << 30)
    assert (special_ids(beyond)["eos_token_id"], end_ids(beyond)) == (None, [])


def test_what_only_fills_the_embedding_up_is_no_token(tmp_path: Path) -> None:
    plain = tokenizer(byte_level(tmp_path / "a.gguf", (("<|end|>", CONTROL),), pre="qwen2"))
    number = len(BYTE_LEVEL) + 1
    padding = ((f"[PAD{number}]", UNUSED), (f"[PAD{number + 1}]", UNUSED))
    padded = tokenizer(byte_level(tmp_path / "b.gguf", (("<|end|>", CONTROL), *padding), pre="qwen2"))
    assert padded.vocab_sha256 == plain.vocab_sha256


# Sentencepiece: <unk>, <s>, </s>, bytes, then pieces whose scores say what is merged first.
PIECES = [
    "\u2581",
    "h",
    "e",
    "l",
    "o",
    "w",
    "!",
    "he",
    "ll",
    "hell",
    "hello",
    "\u2581hello",
    "el",
    "lo",
    "\u2581w",
    "\u2581\u2581",
]
SPM_TOKENS = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), *PIECES]
SPM_KINDS = [UNKNOWN, CONTROL, CONTROL, *[BYTE] * 256, *[NORMAL] * len(PIECES)]
FIRST_PIECE = 3 + 256


def sentencepiece(path: Path, **values: Any) -> GgufFile:
    scores = [0.0] * FIRST_PIECE + [float(-index) for index in range(len(PIECES))]
    ids = {"unknown_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
    return written(path, "llama", SPM_TOKENS, SPM_KINDS, scores=scores, **(ids | values))


def test_sentencepieces_ids_are_transformers(tmp_path: Path) -> None:
    from transformers import LlamaTokenizer

    merges = tokenizer_of(sentencepiece(tmp_path / "t.gguf")).tokenizer["model"]["merges"]
    assert merges[:3] == [["h", "e"], ["l", "l"], ["he", "ll"]]
    reference = LlamaTokenizer(
        vocab={token: index for index, token in enumerate(SPM_TOKENS)},
        merges=[tuple(merge) for merge in merges],
        add_bos_token=True,
    )
    ours = tokenizer(sentencepiece(tmp_path / "t.gguf"))
    for text in ("hello", "hello  w!", "well\u00e9 \u4f60\n", "w", "hello</s>"):
        assert ours.encode(text) == reference(text)["input_ids"], text
        assert ours.decode(ours.encode(text)) == reference.decode(ours.encode(text), skip_special_tokens=True)


def test_a_space_before_the_text_is_as_the_file_says(tmp_path: Path) -> None:
    assert pieces(sentencepiece(tmp_path / "t.gguf"), "hello") == ["<s>", "\u2581hello"]
    file = sentencepiece(tmp_path / "t.gguf", add_space_prefix=False, add_bos_token=False)
    assert pieces(file, "hello") == ["hello"]
    assert pieces(file, "\u00e9") == ["<0xC3>", "<0xA9>"]
    assert tokenizer(file).decode(tokenizer(file).encode(" hello \u00e9")) == " hello \u00e9"


def test_gemmas_ids_are_transformers(tmp_path: Path) -> None:
    from transformers import GemmaTokenizer
    from transformers.tokenization_utils_base import generate_merges

    tokens = ["<pad>", "<eos>", "<bos>", "<unk>", *(f"<0x{byte:02X}>" for byte in range(256)), "  ", "   "]
    kinds = [CONTROL, CONTROL, CONTROL, UNKNOWN, *[BYTE] * 256, USER_DEFINED, USER_DEFINED]
    tokens += [piece for piece in PIECES if piece != "\u2581\u2581"]
    kinds += [NORMAL] * (len(tokens) - len(kinds))
    ids = {"unknown_token_id": 3, "bos_token_id": 2, "eos_token_id": 1, "padding_token_id": 0}
    file = written(
        tmp_path / "t.gguf", "llama", tokens, kinds, architecture="gemma3", pre="default", scores=[-1000.0] * len(tokens),
        add_space_prefix=False, **ids,
    )  # fmt: skip
    vocab = {token.replace(" ", "\u2581"): index for index, token in enumerate(tokens)}
    reference = GemmaTokenizer(vocab=vocab, merges=generate_merges(vocab), add_bos_token=True)
    ours = tokenizer(file)
    assert tokenizer_of(file).warnings == ()
    for text in ("hello", "hello  w!", "hello   w", "well\u00e9\n"):
        assert ours.encode(text) == reference(text)["input_ids"], text


def test_transformers_reads_what_is_written(tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    template = "{% for m in messages %}{{ m['content'] }}{{ eos_token }}{% endfor %}"
    end = len(BYTE_LEVEL)
    file = byte_level(tmp_path / "t.gguf", pre="qwen2", eos_token_id=end, padding_token_id=end, chat_template=template)
    (tmp_path / "out").mkdir()
    write_tokenizer(file, tmp_path / "out", print)
    ours, theirs = Tokenizer.from_folder(tmp_path / "out"), AutoTokenizer.from_pretrained(tmp_path / "out")
    assert (theirs.eos_token, theirs.pad_token_id) == ("<|end|>", end)
    for text in TEXTS:
        assert ours.encode(text) == theirs(text)["input_ids"]
    assert ours.encode_chat([("user", "in")])[-1] == end


@pytest.mark.skipif(not QWEN_FILE.exists(), reason="no Qwen2.5-Coder GGUF file on this machine")
def test_qwens_own_file_gives_qwens_ids() -> None:
    ours = tokenizer(GgufFile(QWEN_FILE))
    assert ours.encode("Hello world") == [9707, 1879]
    assert ours.encode("Price 1,234.56") == [6972, 220, 16, 11, 17, 18, 19, 13, 20, 21]
    assert ours.encode("e\u0301te\u0301") == ours.encode("\u00e9t\u00e9")
    assert ours.encode("<|im_start|>user\nhi<|im_end|>") == [151644, 872, 198, 6023, 151645]
    assert end_ids(GgufFile(QWEN_FILE)) == [151645, 151643]

"""Special tokens and chat templates in all the places where files have them: the ids are those of transformers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from specgrove.tokenizer import ChatOptions, Tokenizer
from tests.tokenizer.shapes import byte_fallback, byte_level_backend

TURNS = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
WITH_BOS = "{{ bos_token }}" + TURNS + "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
CONVERSATION = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": " What is a <|im_end|> and <mark> x?"},
    {"role": "assistant", "content": "naïve 木"},
    {"role": "user", "content": "the quick brown fox"},
]
TOKEN = {"lstrip": False, "rstrip": False, "single_word": False, "normalized": False}


def added(content: str, **flags: bool) -> dict[str, Any]:
    return {"content": content, **TOKEN, "special": True, **flags}


CASES: dict[str, dict[str, Any]] = {
    "in the config": {"tokenizer_config.json": {"bos_token": "<s>", "eos_token": "</s>"}},
    "only in special_tokens_map.json": {"special_tokens_map.json": {"bos_token": "<s>", "eos_token": "</s>"}},
    "as objects": {"special_tokens_map.json": {"bos_token": {"content": "<s>", **TOKEN}}},
    "in both, which differ": {
        "tokenizer_config.json": {"bos_token": "</s>"},
        "special_tokens_map.json": {"bos_token": "<s>"},
    },
    "the map takes one away": {
        "tokenizer_config.json": {"bos_token": "</s>"},
        "special_tokens_map.json": {"bos_token": None},
    },
    "the map doesn't count beside added_tokens_decoder": {
        "tokenizer_config.json": {"added_tokens_decoder": {"0": added("<s>")}, "bos_token": "<s>"},
        "special_tokens_map.json": {"bos_token": "</s>"},
    },
    "added by the config": {
        "tokenizer_config.json": {
            "added_tokens_decoder": {
                "400": added("<|im_start|>"),
                "401": added("<|im_end|>"),
                "402": added("<mark>", special=False, lstrip=True, rstrip=True),
            },
            "bos_token": "<s>",
        }
    },
    "added by added_tokens.json": {
        "added_tokens.json": {"<|im_start|>": 400, "<|im_end|>": 401, "<mark>": 402},
        "tokenizer_config.json": {"bos_token": "<|im_start|>"},
    },
    "a role gives a token of the vocabulary its place": {
        "tokenizer_config.json": {"bos_token": "<s>", "pad_token": "the"}
    },
    "a token that no file has": {"tokenizer_config.json": {"bos_token": "<|begin|>"}},
    "further special tokens": {
        "tokenizer_config.json": {
            "additional_special_tokens": ["<|im_start|>", {"__type": "AddedToken", **added("<|im_end|>")}]
        }
    },
    "with names of their own": {
        "tokenizer_config.json": {"extra_special_tokens": {"mark_token": "<mark>"}, "eot_token": "<|im_end|>"},
        "chat_template.jinja": "{{ mark_token }}{{ eot_token }}" + TURNS,
    },
    "split": {"tokenizer_config.json": {"split_special_tokens": True, "bos_token": "<s>"}},
    "the template in the config": {
        "tokenizer_config.json": {"chat_template": "{{ bos_token }}!" + TURNS, "bos_token": "<s>"}
    },
    "the file goes before the config": {
        "tokenizer_config.json": {"chat_template": "no"},
        "chat_template.jinja": WITH_BOS,
    },
    "templates by name": {
        "tokenizer_config.json": {
            "chat_template": [
                {"name": "tool_use", "template": "tools"},
                {"name": "default", "template": WITH_BOS},
            ]
        }
    },
    "generation tags": {
        "chat_template.jinja": "{% for m in messages %}{% if m.role == 'assistant' %}\n    {% generation %}\n{{ m.content }}"
        "{% set seen = 1 %}{% endgeneration %}\n{{ seen }}{% else %}{{ m.content }}{% endif %}{% endfor %}"
    },
    "filters and loops": {
        "chat_template.jinja": "{%- set ns = namespace(n=0) %}{% for m in messages %}{% set ns.n = ns.n + 1 %}\n"
        "  {%- if loop.first %}{% continue %}{% endif %}{{ ns.n }}{{ m | tojson }}{{ m | tojson(indent=2) }}"
        "{{ m | tojson(separators=(',', ':'), sort_keys=true) }}{{ m.content.strip() | upper }}"
        "{% if ns.n > 2 %}{% break %}{% endif %}{% endfor %}{{ strftime_now('%Y') }}{{ messages[1:] | length }}"
    },
}


def folder_of(path: Path, files: dict[str, Any]) -> Path:
    (path / "tokenizer.json").write_text(byte_level_backend().to_str())
    for name, content in ({"tokenizer_config.json": {}, "chat_template.jinja": WITH_BOS} | files).items():
        # A template of the config's own is what is asked for, unless there are both.
        if (
            name == "chat_template.jinja"
            and name not in files
            and "chat_template" in files.get("tokenizer_config.json", {})
        ):
            continue
        (path / name).write_text(content if isinstance(content, str) else json.dumps(content))
    return path


@pytest.mark.parametrize("case", CASES)
def test_conversations_have_the_ids_of_transformers(tmp_path: Path, case: str) -> None:
    from transformers import PreTrainedTokenizerFast

    folder = folder_of(tmp_path, CASES[case])
    reference = PreTrainedTokenizerFast.from_pretrained(folder)
    tokenizer = Tokenizer.from_folder(folder)
    for conversation in (CONVERSATION[:2], CONVERSATION):
        for opens_answer in (True, False):
            expected = reference.apply_chat_template(
                conversation, add_generation_prompt=opens_answer, return_dict=False, tokenize=True
            )
            assert tokenizer.encode_chat(conversation, ChatOptions(opens_answer, has_control_tokens=True)) == expected
            assert tokenizer.decode(expected) == reference.decode(expected, skip_special_tokens=True)
            assert tokenizer.decode(expected, keep_special_tokens=True) == reference.decode(expected)
    text = CONVERSATION[1]["content"]
    assert tokenizer.encode(text) == reference(text)["input_ids"]


def test_tools_choose_the_template_that_is_named_for_them(tmp_path: Path) -> None:
    from transformers import PreTrainedTokenizerFast

    templates = [
        {"name": "tool_use", "template": "{{ tools | tojson }}" + TURNS},
        {"name": "default", "template": TURNS},
    ]
    folder = folder_of(tmp_path, {"tokenizer_config.json": {"chat_template": templates}})
    reference = PreTrainedTokenizerFast.from_pretrained(folder)
    tools = [{"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {}}}}]
    ours = Tokenizer.from_folder(folder).encode_chat(
        CONVERSATION, ChatOptions(template_kwargs={"tools": tools}, has_control_tokens=True)
    )
    assert ours == reference.apply_chat_template(
        CONVERSATION, tools=tools, add_generation_prompt=True, return_dict=False
    )
    reference.save_pretrained(tmp_path / "again")
    saved = Tokenizer.from_folder(tmp_path / "again").encode_chat(
        CONVERSATION, ChatOptions(template_kwargs={"tools": tools}, has_control_tokens=True)
    )
    assert saved == ours


def test_values_that_are_none_are_left_out_and_reasoning_has_all_its_names() -> None:
    template = (
        "{% for m in messages %}{{ m.tool_calls is defined }}{{ m.reasoning_content }}{{ m.thinking }}{% endfor %}"
    )
    tokenizer = Tokenizer(byte_level_backend().to_str().encode(), {}, template)
    message = {"role": "assistant", "content": "x", "tool_calls": None, "reasoning": "why"}
    assert tokenizer.render_chat([message]) == "Falsewhywhy"


def test_spaces_before_punctuation_stay(tmp_path: Path) -> None:
    """As in transformers, for tokenizers of this kind: the setting was made for another."""
    folder = folder_of(tmp_path, {"tokenizer_config.json": {"clean_up_tokenization_spaces": True}})
    tokenizer = Tokenizer.from_folder(folder)
    assert tokenizer.decode(tokenizer.encode("x . y , z n't")) == "x . y , z n't"


def test_a_config_changes_nothing_of_what_vocabularies_are_compared_by() -> None:
    plain = byte_fallback()
    content = plain._tokenizer.to_str().encode()
    padded = Tokenizer(content, {"pad_token": "<pad>"}, None)
    assert padded.vocab_size == plain.vocab_size + 1
    assert padded.vocab_sha256 == plain.vocab_sha256
    assert padded.token_checksums() == plain.token_checksums()

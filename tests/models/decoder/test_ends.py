"""What ends an output, by files that contradict each other or say nothing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from specgrove.files.json_files import JsonFileError
from specgrove.models.decoder.ends import Ends, ends_of
from specgrove.tokenizer import Tokenizer
from tests.tokenizer.shapes import byte_level_backend

CHATML = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
EOS, OTHER = 1, 7


def folder_of(path: Path, template: str | None = None, **files: Any) -> Path:
    tokenizer = byte_level_backend()
    vocab_size = tokenizer.get_vocab_size()
    tokenizer.add_tokens(["<|im_start|>", "<|im_end|>"])
    assert tokenizer.token_to_id("<|im_end|>") == vocab_size + 1
    (path / "tokenizer.json").write_text(tokenizer.to_str())
    for name, content in files.items():
        (path / f"{name}.json").write_text(json.dumps(content))
    if template is not None:
        (path / "chat_template.jinja").write_text(template)
    return path


def ends(folder: Path, vocab_size: int = 500) -> Ends:
    tokenizer = Tokenizer.from_folder(folder)
    return ends_of(folder, tokenizer, vocab_size)


def im_end_of(folder: Path) -> int:
    return Tokenizer.from_folder(folder).encode("<|im_end|>")[0]


def test_raw_text_ends_by_the_first_source_that_names_an_end(tmp_path: Path) -> None:
    folder = folder_of(
        tmp_path,
        generation_config={"eos_token_id": [OTHER, EOS]},
        config={"eos_token_id": 9},
        tokenizer_config={"eos_token": "</s>"},
    )
    assert ends(folder).text == (OTHER, EOS)
    (folder / "generation_config.json").write_text('{"eos_token_id": null}')
    assert ends(folder).text == (9,)
    (folder / "config.json").write_text("{}")
    assert ends(folder).text == (EOS,)
    (folder / "tokenizer_config.json").unlink()
    assert ends(folder) == Ends((), ())


def test_an_answer_ends_at_whatever_any_source_names(tmp_path: Path) -> None:
    folder = folder_of(
        tmp_path,
        CHATML,
        generation_config={"eos_token_id": OTHER},
        config={"eos_token_id": 9},
        tokenizer_config={"eos_token": "</s>"},
    )
    assert ends(folder) == Ends((OTHER,), (OTHER, 9, EOS, im_end_of(folder)))


def test_a_wrong_id_in_both_configurations_does_not_leave_a_chat_without_an_end(tmp_path: Path) -> None:
    wrong = {"eos_token_id": 100_000}
    folder = folder_of(
        tmp_path, generation_config=wrong, config=wrong, tokenizer_config={"eos_token": {"content": "<|im_end|>"}}
    )
    assert ends(folder) == Ends((im_end_of(folder),), (im_end_of(folder),))


@pytest.mark.parametrize(
    ("template", "is_found"),
    [
        (CHATML, True),
        ("{% for m in messages %}[{{ m.role }}] {{ m.content }} <|im_end|>{% endfor %}", True),
        ("{% for m in messages %}{{ m.content }}\n{% endfor %}", False),
        ("{% for m in messages %}{{ m.content }}\nUser:<|im_end|>{% endfor %}", False),
        ("{{ raise_exception('no') }}", False),
        ("{{ broken", False),
    ],
)
def test_the_template_tells_what_ends_a_turn(tmp_path: Path, template: str, is_found: bool) -> None:
    folder = folder_of(tmp_path, template, config={})
    assert ends(folder) == Ends((), (im_end_of(folder),) if is_found else ())


@pytest.mark.parametrize("key", ["eot_token", "eos_token"])
def test_tokens_by_role(tmp_path: Path, key: str) -> None:
    folder = folder_of(tmp_path, tokenizer_config={key: "<|im_end|>"})
    assert ends(folder).chat == (im_end_of(folder),)


@pytest.mark.parametrize(("name", "content"), [("generation_config", "</s>"), ("config", [1, "2"])])
def test_a_wrong_value_is_named(tmp_path: Path, name: str, content: object) -> None:
    folder = folder_of(tmp_path, **{name: {"eos_token_id": content}})
    with pytest.raises(JsonFileError, match=rf"{name}\.json: eos_token_id is .* should be a token id"):
        ends(folder)

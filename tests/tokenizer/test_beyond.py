"""Tokenizers that have ids which the model has no rows for."""

from __future__ import annotations

import json

from specgrove.tokenizer import Tokenizer
from specgrove.tokenizer.beyond import lacking_ids
from tests.router.toy_language import VOCAB_SIZE, toy_tokenizer_json

CHAT = "{% for m in messages %}<|new|>{{ m.content }}{% endfor %}"


def _with_new(template: str | None = None, **changes: object) -> Tokenizer:
    """With an added token behind all others."""
    added = {"id": VOCAB_SIZE, "content": "<|new|>", "special": True, "normalized": False}
    added |= {"single_word": False, "lstrip": False, "rstrip": False}
    content = json.loads(toy_tokenizer_json())
    content["added_tokens"].append(added)
    return Tokenizer(json.dumps(content | changes).encode(), {}, template)


def test_ordinary_ids_beyond_the_vocabulary_are_another_models() -> None:
    tokenizer = Tokenizer(toy_tokenizer_json(), {}, None)
    assert lacking_ids(tokenizer, VOCAB_SIZE) is None
    assert lacking_ids(tokenizer, VOCAB_SIZE + 64) is None  # rows are padded
    warning = lacking_ids(tokenizer, 100)
    assert warning is not None
    assert warning.startswith(
        "the tokenizer has 256 ordinary token ids and the model 100: is tokenizer.json another model's?"
    )


def test_an_added_token_beyond_it_is_told_where_conversations_have_it() -> None:
    assert lacking_ids(_with_new(), VOCAB_SIZE) is None
    assert lacking_ids(_with_new("{{ messages[0].content }}"), VOCAB_SIZE) is None
    warning = lacking_ids(_with_new(CHAT), VOCAB_SIZE)
    assert warning is not None
    assert warning.startswith(
        f"the chat template writes '<|new|>', id {VOCAB_SIZE}, and the model's vocabulary has {VOCAB_SIZE} ids"
    )


def test_an_added_token_beyond_it_is_told_where_texts_begin_with_it() -> None:
    special = {"<|new|>": {"id": "<|new|>", "ids": [VOCAB_SIZE], "tokens": ["<|new|>"]}}
    single = [{"SpecialToken": {"id": "<|new|>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}]
    processor = {"type": "TemplateProcessing", "single": single, "pair": single, "special_tokens": special}
    warning = lacking_ids(_with_new(post_processor=processor), VOCAB_SIZE)
    assert warning is not None
    assert warning.startswith("each text begins with '<|new|>'")

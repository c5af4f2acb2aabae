"""Whether a tokenizer makes ids that the model has no rows for: each prompt with one of them is refused. Asked when a service starts.

A vocabulary that is larger than the tokenizer's is normal: its rows are padded. So are a few added tokens beyond it that nobody uses.
"""

from __future__ import annotations

import contextlib

from specgrove.tokenizer.messages import Message
from specgrove.tokenizer.tokenizer import Tokenizer


def lacking_ids(tokenizer: Tokenizer, vocab_size: int) -> str | None:
    """What to warn of: ordinary texts, all texts or all conversations would have an id that is too large."""
    if tokenizer.num_ordinary_ids > vocab_size:
        return (
            f"the tokenizer has {tokenizer.num_ordinary_ids} ordinary token ids and the model {vocab_size}: is tokenizer.json another "
            "model's? Texts that need one of the others are refused"
        )
    if tokenizer.num_ids <= vocab_size:
        return None
    if beyond := [token_id for token_id in tokenizer.encode("") if token_id >= vocab_size]:
        return f"each text begins with {_named(tokenizer, beyond[0], vocab_size)}"
    question: list[Message] = [{"role": "user", "content": "1"}]
    with contextlib.suppress(ValueError):  # no template, or one that wants more than a question
        if beyond := [token_id for token_id in tokenizer.encode_chat(question) if token_id >= vocab_size]:
            return f"the chat template writes {_named(tokenizer, beyond[0], vocab_size)}"
    return None


def _named(tokenizer: Tokenizer, token_id: int, vocab_size: int) -> str:
    text = tokenizer.decode([token_id], keep_special_tokens=True)
    return f"{text!r}, id {token_id}, and the model's vocabulary has {vocab_size} ids: such prompts will be refused"

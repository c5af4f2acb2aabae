"""Which tokens end an output. Used by the LLM service, by training and by benchmarks; the only place that reads ``eos_token_id``.

Files contradict each other: configurations are copied from base models, and chats that nothing ends run on through invented turns. So raw
text ends as transformers' ``generate`` ends it, and an answer in a conversation ends at whatever any source names.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from specgrove.files.json_files import read_json_object
from specgrove.tokenizer import Tokenizer

_KEY = "eos_token_id"


@dataclass(frozen=True, slots=True)
class Ends:
    """Token ids that end an output: of raw ``text``, and of an answer in a ``chat``."""

    text: tuple[int, ...]
    chat: tuple[int, ...]


def ends_of(folder: Path, tokenizer: Tokenizer, vocab_size: int) -> Ends:
    """What ends outputs of a model folder, by generation_config.json, config.json, the tokenizer's files and the chat template.

    Ids that the model's vocabulary doesn't have name nothing. Raises ``JsonFileError``, ``OSError``.
    """

    def usable(token_ids: Iterable[int]) -> tuple[int, ...]:
        return tuple(dict.fromkeys(token_id for token_id in token_ids if 0 <= token_id < vocab_size))

    paths = [path for name in ("generation_config.json", "config.json") if (path := folder / name).is_file()]
    sources = [usable(read_json_object(path).token_ids(_KEY)) for path in paths]
    by_tokenizer = () if tokenizer.eos_token_id is None else usable([tokenizer.eos_token_id])
    everything = [*sources, by_tokenizer, usable(tokenizer.answer_end_ids())]
    return Ends(
        text=next((ids for ids in (*sources, by_tokenizer) if ids), ()),
        chat=tuple(dict.fromkeys(token_id for ids in everything for token_id in ids)),
    )

"""Files of prompts, as FlexFlow Serve has them: a JSON list of texts. Read by commands before anything is started."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from specgrove.files.json_files import JsonFileError, read_json_texts


@dataclass(frozen=True, slots=True)
class PromptSet:
    """The prompts of a file in their order; ``name`` is the file's, without its ending."""

    name: str
    prompts: tuple[str, ...]


def read_prompt_set(path: Path, max_num_prompts: int | None = None) -> PromptSet:
    """The first ``max_num_prompts``, or all. Raises ``JsonFileError``, and ``OSError`` where the file can't be read."""
    try:
        prompts = read_json_texts(path)
    except JsonFileError as error:
        if _is_json_lines(error):
            raise JsonFileError(
                f'{path} holds JSON lines; it should hold one JSON list of texts (["...", "..."])'
            ) from error
        raise
    if not prompts:
        raise JsonFileError(f"{path} holds an empty list; give it a prompt at least")
    for number, prompt in enumerate(prompts, start=1):
        if not prompt:
            raise JsonFileError(f"{path}: element {number} of the list is an empty text; a prompt needs a character")
    return PromptSet(path.stem, prompts[:max_num_prompts])


def _is_json_lines(error: JsonFileError) -> bool:
    """Whether the first line is JSON, and another one follows."""
    cause = error.__cause__
    return isinstance(cause, json.JSONDecodeError) and cause.msg == "Extra data" and cause.lineno > 1

"""Files of prompts, as FlexFlow Serve has them: a JSON list of texts. Read by commands before anything is started."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from specgrove.json_files import JsonFileError, read_json_texts


@dataclass(frozen=True, slots=True)
class PromptSet:
    """The prompts of a file in their order; ``name`` is the file's, without its ending."""

    name: str
    prompts: tuple[str, ...]


def read_prompt_set(path: Path, max_num_prompts: int | None = None) -> PromptSet:
    """The first ``max_num_prompts``, or all. Raises ``JsonFileError``, and ``OSError`` where the file can't be read."""
    prompts = read_json_texts(path)
    if not prompts:
        raise JsonFileError(f"{path} holds an empty list; give it a prompt at least")
    for number, prompt in enumerate(prompts, start=1):
        if not prompt:
            raise JsonFileError(f"{path}: element {number} of the list is an empty text; a prompt needs a character")
    return PromptSet(path.stem, prompts[:max_num_prompts])

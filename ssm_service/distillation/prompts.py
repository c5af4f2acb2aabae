"""What the LLM is asked: prompts from files, and prompts it invents itself. Pure Python; used by ``sampler``.

A dialogue is token ids to feed, then (for an invented prompt) the user's turn, which the LLM continues until it ends it, then the
template's tokens between the user's turn and the answer. Any chat template works: it is rendered around a placeholder.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from specgrove.tokenizer import Tokenizer

# alpaca.json stays out: it is for evaluation, and its licence forbids what is distilled here.
PROMPT_FILES = ("chatgpt.json", "webqa.json", "piqa.json", "chatbot.json")
FILE_SHARE = 0.3  # of the dialogues, where there are files
SYSTEM_PROMPTS = (
    "You are a helpful assistant.",
    "You are an expert teacher who explains things step by step.",
    "You are a creative writer.",
    "You are a programmer. Answer with code and short explanations.",
    "You answer questions in one or two sentences.",
)
SYSTEM_SHARE = 0.2  # of the dialogues, which have one of these instead of the template's default
# fmt: off
OPENERS = (
    "What", "What is", "What are", "How", "How do I", "How can", "Why", "Who", "When", "Where", "Which",
    "Can you", "Could you", "Please", "Write", "Write a", "Write a short", "Write an email", "Write a story",
    "Write a poem", "Write a Python", "Explain", "Explain how", "Describe", "Give me", "Give an example", "List",
    "List five", "Name", "Create a", "Create a list", "Generate", "Suggest", "Design", "Tell me", "Compare",
    "Summarize", "Rewrite", "Edit", "Translate", "Classify", "Identify", "Find", "Calculate", "Solve", "Make",
    "Come up with", "Discuss", "I", "I'm", "My", "I need", "I want", "If", "Given", "In", "The", "A", "Imagine",
    "Is it", "Are there", "Do", "Should I", "Provide", "Develop", "Propose", "Convert", "Construct", "Analyze",
    "Outline", "Brainstorm", "Help me", "Recommend", "Tell me about", "What does", "What would", "Who was",
    "How many", "How does",
)
# fmt: on


@dataclass(frozen=True, slots=True)
class Dialogue:
    """``answer_prefix_ids`` follow the user's turn; its first id ends that turn. A whole prompt has ``invents_user`` False."""

    prompt_ids: tuple[int, ...]
    invents_user: bool
    answer_prefix_ids: tuple[int, ...]


def read_prompt_files(folder: Path | None, names: Sequence[str] = PROMPT_FILES) -> list[str]:
    """The prompts of the files that exist; each file is a JSON list of strings."""
    if folder is None:
        return []
    prompts: list[str] = []
    for name in names:
        if (folder / name).is_file():
            prompts += json.loads((folder / name).read_text(encoding="utf-8"))
    return prompts


def dialogues(tokenizer: Tokenizer, file_prompts: Sequence[str], seed: int) -> Iterator[Dialogue]:
    """Endless; the same arguments give the same dialogues."""
    rng = random.Random(seed)
    while True:
        system = rng.choice(SYSTEM_PROMPTS) if rng.random() < SYSTEM_SHARE else None
        if file_prompts and rng.random() < FILE_SHARE:
            prompt = rng.choice(file_prompts)
            before, after = around_user_turn(tokenizer, system)
            yield Dialogue(tuple(tokenizer.encode(before + prompt + after)), False, ())
        else:
            opener = rng.choice(OPENERS) if rng.random() < 0.7 else ""
            before, after = around_user_turn(tokenizer, system)
            yield Dialogue(tuple(tokenizer.encode(before + opener)), True, tuple(tokenizer.encode(after)))


def around_user_turn(tokenizer: Tokenizer, system: str | None) -> tuple[str, str]:
    """The chat template's text before and after the user's words, up to where the answer starts."""
    placeholder = "PLACEHOLDER"
    messages = [] if system is None else [("system", system)]
    messages.append(("user", placeholder))
    before, _, after = tokenizer.render_chat(messages).partition(placeholder)
    return before, after

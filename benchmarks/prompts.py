"""Prompts for benchmarks and demonstrations: the prompt sets beside the checkout when present, else made from templates."""

from __future__ import annotations

import json
from pathlib import Path

from specgrove.files.prompt_files import read_prompt_set

_OWN_PROMPTS = Path(__file__).parent / "prompt_sets"
SHARED_PROMPTS = Path(__file__).resolve().parents[2] / "shared" / "prompts"

_TASKS = (
    "Explain {} to a ten-year-old.",
    "Write a short story about {}.",
    "List five facts about {}.",
    "What are the advantages and disadvantages of {}?",
    "Write a Python function that has to do with {}, and explain it.",
    "Summarise the history of {} in one paragraph.",
    "Give me step by step instructions for getting started with {}.",
    "Write a polite email asking a colleague about {}.",
    "Compare {} with its closest alternative.",
    "Make a table about {} with three columns.",
)
_TOPICS = (
    "bicycles",
    "photosynthesis",
    "chess",
    "bread baking",
    "rivers",
    "sorting",
    "volcanoes",
    "the violin",
    "tides",
    "maps",
    "compost",
    "lighthouses",
    "glass",
    "marathon running",
    "bees",
    "elections",
    "prime numbers",
    "tea",
    "bridges",
    "sleep",
    "coral reefs",
    "typography",
    "wind turbines",
    "the printing press",
    "origami",
)


def code_prompts() -> list[str]:
    """Of our own: a completion, an edit and an explanation in turn."""
    return list(read_prompt_set(_OWN_PROMPTS / "code.json").prompts)


def load_prompts(num_prompts: int, sets: tuple[str, ...] = ("alpaca", "chatbot", "webqa", "piqa")) -> list[str]:
    """The first prompts of every set in turn, so that a few already cover all of them."""
    paths = [SHARED_PROMPTS / f"{name}.json" for name in sets]
    if all(path.exists() for path in paths):
        columns = [json.loads(path.read_text()) for path in paths]
        length = max(map(len, columns))
        prompts = [column[row] for row in range(length) for column in columns if row < len(column)]
    else:
        prompts = [task.format(topic) for topic in _TOPICS for task in _TASKS]
    if len(prompts) < num_prompts:
        raise ValueError(f"{num_prompts} prompts are wanted, there are {len(prompts)}")
    return prompts[:num_prompts]

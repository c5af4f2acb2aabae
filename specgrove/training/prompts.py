"""What the LLM is asked: prompts from files, and prompts it invents itself. Pure Python; used by ``sampler``.

A dialogue is token ids to feed, then (for an invented prompt) the user's turn, which the LLM continues until it ends it, then the
template's tokens between the user's turn and the answer. Any chat template works: it is rendered around a placeholder.
"""

from __future__ import annotations

import contextlib
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from specgrove.files.json_files import JsonFileError, read_json
from specgrove.tokenizer import Tokenizer

_SUFFIXES = (".json", ".txt")
_PLACEHOLDER = "PLACEHOLDER"
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


EVALUATION_PROMPTS = (
    "Explain in a few sentences why the sky is blue.",
    "Write a short poem about a lighthouse in winter.",
    "What is the difference between a virus and a bacterium?",
    "Give me a recipe for a simple vegetable soup.",
    "Write a Python function that checks whether a number is prime.",
    "How do vaccines train the immune system?",
    "Summarise the plot of a story about a lost dog that finds its way home.",
    "List five tips for better sleep.",
    "What causes the tides?",
    "Write a polite email that asks a colleague to postpone a meeting.",
    "Describe how a bicycle stays upright.",
    "Name three advantages and three disadvantages of remote work.",
    "Explain what a hash table is to a beginner.",
    "How does compound interest work? Give an example with numbers.",
    "Write a short dialogue between a cat and a dog about dinner.",
    "What should I look at when I buy a used car?",
    "Translate into French: Where is the nearest train station?",
    "What is the capital of Australia, and why is it not Sydney?",
    "Give me a plan for a one-day visit to a large museum.",
    "Why do leaves change colour in autumn?",
    "Write a SQL query that returns the ten customers with the most orders.",
    "How can I remove a coffee stain from a shirt?",
    "Explain the rules of chess castling.",
    "Write the first paragraph of a mystery novel set on a night train.",
    "What is machine learning? Answer in two sentences.",
    "Compare tea and coffee as morning drinks.",
    "How do I start a small vegetable garden?",
    "Describe the water cycle step by step.",
    "What are prime factors of 360? Show the steps.",
    "Suggest names for a small bakery.",
    "How does a microwave oven heat food?",
    "Write a short product description for a wooden desk lamp.",
)
"""Held out: nothing is distilled from them."""


@dataclass(frozen=True, slots=True)
class Dialogue:
    """``answer_prefix_ids`` follow the user's turn; its first id ends that turn. A whole prompt has ``invents_user`` False."""

    prompt_ids: tuple[int, ...]
    invents_user: bool
    answer_prefix_ids: tuple[int, ...]


def read_prompts(place: Path) -> list[str]:
    """The prompts of a file or a folder of files: ``.json`` holds a list of texts, ``.txt`` one prompt a line. Raises ``ValueError``."""
    if not place.exists():
        raise ValueError(
            f"--data: {place} does not exist: name a .json file (a list of texts), a .txt file (a prompt a line) or a folder"
        )
    paths = sorted(path for path in place.iterdir() if path.suffix in _SUFFIXES) if place.is_dir() else [place]
    prompts = [prompt for path in paths for prompt in _prompts_of(path) if prompt.strip()]
    if not prompts:
        raise ValueError(
            f"--data: there are no prompts in {place}: .json files hold a list of texts, .txt files a prompt a line"
        )
    return prompts


def _prompts_of(path: Path) -> list[str]:
    if path.suffix != ".json":
        # Not splitlines, which divides at characters that a prompt may hold, such as U+2028.
        return path.read_text(encoding="utf-8-sig", errors="replace").split("\n")
    prompts = read_json(path)
    if not isinstance(prompts, list) or not all(isinstance(prompt, str) for prompt in prompts):
        raise JsonFileError(f"{path} holds something else than prompts, it should hold a JSON list of texts")
    return prompts


class DialogueSource:
    """Makes dialogues for one LLM, with its chat template where it has one; without, the LLM just goes on with a text."""

    def __init__(self, tokenizer: Tokenizer, file_prompts: Sequence[str]) -> None:
        self._tokenizer = tokenizer
        self._file_prompts = file_prompts
        self._frames: dict[str | None, tuple[str, str]] = {}
        if tokenizer.has_chat_template:
            self._frames[None] = around_user_turn(tokenizer, None)
            for system in SYSTEM_PROMPTS:
                with contextlib.suppress(ValueError):  # a template without system prompts
                    self._frames[system] = around_user_turn(tokenizer, system)

    @property
    def frame_len(self) -> int:
        """Tokens of the longest frame around a prompt."""
        return max((len(self._tokenizer.encode_rendered(b + a)) for b, a in self._frames.values()), default=1)

    def dialogues(self, seed: int) -> Iterator[Dialogue]:
        """Endless; the same seed gives the same dialogues."""
        rng = random.Random(seed)
        while True:
            is_filed = bool(self._file_prompts) and rng.random() < FILE_SHARE
            prompt = rng.choice(self._file_prompts) if is_filed else rng.choice(OPENERS) if rng.random() < 0.7 else ""
            yield self._framed(prompt, is_filed, rng) if self._frames else self._plain(prompt or rng.choice(OPENERS))

    def _framed(self, prompt: str, is_whole: bool, rng: random.Random) -> Dialogue:
        system = rng.choice(SYSTEM_PROMPTS) if rng.random() < SYSTEM_SHARE else None
        before, after = self._frames.get(system, self._frames[None])
        encode = self._tokenizer.encode_rendered
        prefix = tuple(encode(after))
        if is_whole or not prefix:  # nothing ends the user's turn
            return Dialogue(tuple(encode(before + (prompt or OPENERS[0]) + after)), False, ())
        return Dialogue(tuple(encode(before + prompt)) or tuple(encode(OPENERS[0])), True, prefix)

    def _plain(self, prompt: str) -> Dialogue:
        return Dialogue(tuple(self._tokenizer.encode(prompt)), False, ())


def around_user_turn(tokenizer: Tokenizer, system: str | None) -> tuple[str, str]:
    """The chat template's text before and after the user's words, up to where the answer starts. Raises ``ValueError``."""
    messages = [] if system is None else [("system", system)]
    messages.append(("user", _PLACEHOLDER))
    before, _, after = tokenizer.render_chat(messages).partition(_PLACEHOLDER)
    return before, after

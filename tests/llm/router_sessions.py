"""What a router knows of its sessions with a verifier. Used by the state machine."""

from __future__ import annotations

from dataclasses import dataclass, field

from specgrove.loop.request import SamplingParams
from specgrove.loop.token_tree import TokenTree
from specgrove.loop.works import SessionParams

NUM_LOG_PROBS = 2


@dataclass(slots=True)
class Asked:
    """What a router knows of an item under way."""

    item_id: int
    tree: TokenTree
    num_steps_left: int
    deadline_s: float | None
    is_closed: bool = False
    is_called_off: bool = False


@dataclass(slots=True)
class RouterSession:
    """What a router knows of a session: all committed tokens, and what it asked for last."""

    prompt: tuple[int, ...]
    sampling: SamplingParams
    expected: list[int]
    wants_log_probs: bool = False
    log_probs_start: int = 1
    cache_salt: str = ""
    output: list[int] = field(default_factory=list)
    is_held: bool = True
    asked: Asked | None = None

    @property
    def committed(self) -> tuple[int, ...]:
        return (*self.prompt, *self.output)

    @property
    def num_left(self) -> int:
        return len(self.expected) - len(self.output)

    @property
    def lacks_log_probs(self) -> bool:
        return self.wants_log_probs and self.log_probs_start < len(self.prompt)

    def params(self) -> SessionParams:
        number = NUM_LOG_PROBS if self.lacks_log_probs else None
        return SessionParams(
            self.sampling,
            len(self.prompt),
            num_prompt_log_probs=number,
            prompt_log_probs_start=self.log_probs_start,
            cache_salt=self.cache_salt,
        )

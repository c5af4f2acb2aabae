"""``/generate/``, as the FastAPI entry point of FlexFlow Serve has it: a prompt, and one text for it. Used by ``app``."""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import BaseModel, Field

from router.http.answers import Json
from router.http.asking import AskedPrompt, asked_text
from router.http.bodies import Body
from router.http.errors import SentNames
from router.http.outputs import Piece


class GenerateBody(Body):
    """``POST /generate/``."""

    prompt: str
    max_new_tokens: int = Field(128, ge=1)


class GenerateAnswer(BaseModel):
    """The prompt, and how it goes on."""

    prompt: str
    response: str


def asked_generate(body: GenerateBody) -> AskedPrompt:
    """Greedy, as that entry point generates. Raises ``InvalidRequestError``."""
    names = SentNames("prompt", max_tokens="max_new_tokens")
    return asked_text(body.prompt, names, max_tokens=body.max_new_tokens, temperature=0.0)


class GenerateFormat:
    """One per request."""

    def __init__(self, prompt: str) -> None:
        self._prompt = prompt

    def whole(self, pieces: Sequence[Piece]) -> Json:
        """The prompt and the text."""
        return {"prompt": self._prompt, "response": "".join(piece.text for piece in pieces)}

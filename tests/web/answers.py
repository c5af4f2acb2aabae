"""Chunks and answers to draw."""

from __future__ import annotations

from collections.abc import Sequence

from specgrove.client.output import Chunk, OutputToken, StepDetails, VerifiedNode
from specgrove.web.conversation import Answer

SSMS = ("lookup", "demo")


def token(text: str, *drafted_by: str) -> OutputToken:
    return OutputToken(7, text, drafted_by)


def node(
    text: str, parent: int | None, *drafted_by: str, accepted: bool = False, log_prob: float = -0.5
) -> VerifiedNode:
    return VerifiedNode(7, text, parent, log_prob if drafted_by else 0.0, drafted_by, accepted)


def drafted_chunk(tokens: Sequence[OutputToken], *nodes: VerifiedNode) -> Chunk:
    text = "".join(token.text for token in tokens)
    return Chunk(tuple(tokens), text, step_details=StepDetails(1, 1.0, 1.0, nodes))


def own_chunk(*texts: str) -> Chunk:
    details = StepDetails(len(texts), 0.0, 1.0)
    return Chunk(tuple(token(text) for text in texts), "".join(texts), step_details=details)


# Of " b"'s siblings the less probable one comes first; " x" is below a node that was not accepted.
TREE = (
    node("a", None),
    node(" c", 0, "demo", log_prob=-2.0),
    node(" b", 0, "lookup", "demo", accepted=True),
    node(" x", 1, "demo"),
    node(" d", 2, "lookup", accepted=True),
    node(" e", 4, "demo"),
)


def answered(*chunks: Chunk) -> Answer:
    answer = Answer()
    for number, chunk in enumerate(chunks):
        answer.add(chunk, 10.0 + number)
    return answer


def drafted_answer() -> Answer:
    tokens = [token(" b", "lookup", "demo"), token(" d", "lookup"), token(" <f>")]
    return answered(own_chunk("a"), drafted_chunk(tokens, *TREE))

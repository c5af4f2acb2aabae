"""Tokens' log-probabilities in the forms of both endpoints. Used by ``completions`` and ``chat``."""

from __future__ import annotations

from collections.abc import Sequence

from specgrove.v1 import router_pb2

Token = router_pb2.GeneratedToken | router_pb2.PromptToken

# What OpenAI's API writes for a token that can't come; JSON has no infinity.
_LEAST = -9999.0


def chat_log_probs(tokens: Sequence[router_pb2.GeneratedToken]) -> dict[str, object]:
    """An entry for each token: its text, where bytes that are no text become U+FFFD, and its bytes."""
    content = [
        _entry(token.token_bytes, token.log_probs.log_prob)
        | {"top_logprobs": [_entry(top.token_bytes, top.log_prob) for top in token.log_probs.top]}
        for token in tokens
    ]
    return {"content": content, "refusal": None}


def _entry(token_bytes: bytes, log_prob: float) -> dict[str, object]:
    text = token_bytes.decode(errors="replace")
    return {"token": text, "logprob": max(log_prob, _LEAST), "bytes": list(token_bytes)}


def text_end(tokens: Sequence[Token], start: int, echo: str = "") -> int:
    """Where in the output's text these tokens end, of which the first begins at ``start``. ``echo`` as in ``completion_log_probs``."""
    for token in tokens:
        start += _len_in(echo, start, token)
    return start


def _len_in(echo: str, start: int, token: Token) -> int:
    if token.text or not echo:
        return len(token.text)
    try:
        written = token.token_bytes.decode()
    except UnicodeDecodeError:  # a part of a character
        return 0
    return len(written) if echo.startswith(written, start) else 0


def completion_log_probs(tokens: Sequence[Token], start: int, echo: str = "") -> dict[str, list[object]]:
    """Lists with an element for each token; ``start`` is where the first one's text begins in the output's.

    ``echo`` is the prompt's text, where these are its tokens: special ones, which outputs have no text of, may be written out in it.

    ``top_logprobs`` holds the token itself where it isn't among the most probable, and nothing where none were asked for. A prompt's
    first token has neither.
    """
    offsets: list[object] = []
    for token in tokens:
        offsets.append(start)
        start += _len_in(echo, start, token)
    return {
        "tokens": [_written(token.token_bytes) for token in tokens],
        "token_logprobs": [_own_of(token) for token in tokens],
        "top_logprobs": [_top_of(token) for token in tokens],
        "text_offset": offsets,
    }


def _own_of(token: Token) -> float | None:
    return max(token.log_probs.log_prob, _LEAST) if token.HasField("log_probs") else None


def _top_of(token: Token) -> dict[str, float | None] | None:
    if not token.HasField("log_probs"):
        return None
    top: dict[str, float | None] = {}
    for entry in token.log_probs.top:
        # Several tokens may be written alike, a byte of its own and the letter that it is: the output's own is told, or the likeliest.
        top.setdefault(_written(entry.token_bytes), max(entry.log_prob, _LEAST))
    return top and top | {_written(token.token_bytes): _own_of(token)}


def prompt_log_probs(tokens: Sequence[router_pb2.PromptToken]) -> list[dict[str, object] | None]:
    """As vLLM has them: for each token of the prompt by id its own and the most probable ones'; the first one has none."""
    return [_by_id(token) if token.HasField("log_probs") else None for token in tokens]


def _by_id(token: router_pb2.PromptToken) -> dict[str, object]:
    own: dict[str, object] = {
        str(token.token_id): _ranked(token.token_bytes, token.log_probs.log_prob, token.log_probs.rank)
    }
    return own | {
        str(entry.token_id): _ranked(entry.token_bytes, entry.log_prob, rank)
        for rank, entry in enumerate(token.log_probs.top, 1)
    }


def _ranked(token_bytes: bytes, log_prob: float, rank: int) -> dict[str, object]:
    return {"logprob": max(log_prob, _LEAST), "rank": rank, "decoded_token": token_bytes.decode(errors="replace")}


def _written(token_bytes: bytes) -> str:
    r"""Its text, or ``bytes:\xe6\x9c`` for a part of a character, so that different tokens have different names."""
    try:
        return token_bytes.decode()
    except UnicodeDecodeError:
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in token_bytes)

"""Tokens' log-probabilities in the forms of both endpoints. Used by ``completions`` and ``chat``."""

from __future__ import annotations

from collections.abc import Sequence

from specgrove.v1 import router_pb2

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


def completion_log_probs(tokens: Sequence[router_pb2.GeneratedToken], start: int) -> dict[str, list[object]]:
    """Lists with an element for each token; ``start`` is where the first one's text begins in the output's.

    ``top_logprobs`` holds the token itself where it isn't among the most probable, and nothing where none were asked for.
    """
    offsets: list[object] = []
    for token in tokens:
        offsets.append(start)
        start += len(token.text)
    return {
        "tokens": [_written(token.token_bytes) for token in tokens],
        "token_logprobs": [max(token.log_probs.log_prob, _LEAST) for token in tokens],
        "top_logprobs": [_top_of(token) for token in tokens],
        "text_offset": offsets,
    }


def _top_of(token: router_pb2.GeneratedToken) -> dict[str, float]:
    top = {_written(entry.token_bytes): max(entry.log_prob, _LEAST) for entry in token.log_probs.top}
    return top and top | {_written(token.token_bytes): max(token.log_probs.log_prob, _LEAST)}


def _written(token_bytes: bytes) -> str:
    r"""Its text, or ``bytes:\xe6\x9c`` for a part of a character, so that different tokens have different names."""
    try:
        return token_bytes.decode()
    except UnicodeDecodeError:
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in token_bytes)

"""The file that ``LLM(output_file=...)`` names: a line of JSON for each result, added at its end.

Invariant: what one call adds is written as a whole, so that threads which share an LLM don't write into each other's lines.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from specgrove.serve.errors import ConfigurationError
from specgrove.serve.generation import GenerationResult, Request


def check_can_add(path: Path) -> None:
    """Before results are made. Raises ``ConfigurationError``."""
    try:
        path.open("a").close()
    except (OSError, ValueError) as error:  # a zero byte in the name
        raise ConfigurationError(f"output_file: {error}") from error


def add_results(path: Path, requests: Sequence[Request], results: Sequence[GenerationResult]) -> None:
    """In the order of the requests. Raises ``OSError``."""
    lines = [
        json.dumps(as_json(request, result), ensure_ascii=False) + "\n"
        for request, result in zip(requests, results, strict=True)
    ]
    # Halves of characters, which a message's JSON may hold, are written as they came: \ud83d and the like.
    data = memoryview("".join(lines).encode(errors="backslashreplace"))
    with path.open("ab", buffering=0) as file:
        while data:  # a disk that fills up takes a part, and then tells
            data = data[file.write(data) or 0 :]


def as_json(request: Request, result: GenerationResult) -> dict[str, object]:
    """One line, or an element of the file of ``specgrove spec-infer``."""
    usage = result.statistics
    return {
        "prompt": _prompt_json(request),
        "output_text": result.output_text,
        "output_tokens": result.output_tokens,
        "finish_reason": result.finish_reason,
        "latency_ms": None if usage is None else round(usage.first_token_ms + usage.decode_ms, 3),
        "error": None if result.error is None else str(result.error),
    }


def _prompt_json(request: Request) -> str | list[int] | list[dict[str, object]]:
    """A text, token ids, or messages."""
    from specgrove.client.wire import request_to_proto  # brings gRPC

    proto = request_to_proto(request.prompt)
    match proto.WhichOneof("prompt"):
        case "text":
            return proto.text
        case "token_ids":
            return list(proto.token_ids.token_ids)
        case _:
            return [
                {"role": message.role, "content": message.content, **json.loads(message.attributes_json or "{}")}
                for message in proto.chat.messages
            ]

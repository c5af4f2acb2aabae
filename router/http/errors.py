"""What is wrong, in OpenAI's form: a status, and ``{"error": {"message", "type", "param", "code"}}``. Used by all of ``router.http``.

Invariant: a client reads the names of its own JSON fields, never those of protobuf, and never a traceback.
"""

from __future__ import annotations

import contextlib
import difflib
import json
import math
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from fastapi.responses import JSONResponse

from specgrove.errors import (
    DeadlineExceededError,
    FieldViolation,
    InvalidRequestError,
    NoReplicaError,
    ResourceExhaustedError,
    SessionClosedError,
    SpecGroveError,
    UnauthorizedError,
    UnavailableError,
)

_INVALID = "invalid_request_error"
_SERVER = "server_error"
# What clients are told to wait for a router that starts or ends.
_UNAVAILABLE_RETRY_S = 1
_MAX_NUM_TOLD = 8
_MAX_SHOWN_LEN = 40


@dataclass(frozen=True, slots=True)
class Failure:
    """A response that says what is wrong."""

    status: int
    message: str
    type: str = _INVALID
    param: str | None = None
    code: str | None = None
    headers: Mapping[str, str] = field(default_factory=dict)

    def body(self) -> dict[str, object]:
        """The JSON; events of streams carry the same."""
        return {"error": {"message": self.message, "type": self.type, "param": self.param, "code": self.code}}

    def response(self) -> JSONResponse:
        """The whole response."""
        return JSONResponse(self.body(), self.status, dict(self.headers))


def failure_of(error: SpecGroveError) -> Failure:
    """The status of each of our errors."""
    message = str(error)
    match error:
        case InvalidRequestError():
            return _refusal(error)
        case ResourceExhaustedError():
            # openai's clients look at the one in milliseconds first.
            headers = {
                "retry-after": str(math.ceil(error.retry_delay_ms / 1e3)),
                "retry-after-ms": str(error.retry_delay_ms),
            }
            return Failure(429, message, "rate_limit_error", code="rate_limit_exceeded", headers=headers)
        case UnavailableError() | NoReplicaError() | SessionClosedError():
            return Failure(
                503, message, _SERVER, code="unavailable", headers={"retry-after": str(_UNAVAILABLE_RETRY_S)}
            )
        case DeadlineExceededError():
            # It would take as long once more.
            return Failure(504, message, _SERVER, code="timeout", headers={"x-should-retry": "false"})
        case UnauthorizedError():
            headers = {"www-authenticate": "Bearer"}
            return Failure(401, message, "authentication_error", code="invalid_api_key", headers=headers)
        case _:
            return Failure(500, message, _SERVER, code="internal_error")


def http_failure(status: int, detail: str) -> Failure:
    """For what the web framework refuses: unknown paths, methods, bodies that can't be read."""
    code = {
        404: "not_found",
        405: "method_not_allowed",
        413: "request_too_large",
        415: "unsupported_media_type",
    }.get(status)
    return Failure(status, detail, code=code)


def no_such_path(path: str, api_paths: Collection[str]) -> str:
    """What to say of a path that nothing is at. Most often a client's base URL lacks ``/v1``, or has it twice."""
    bare = path.rstrip("/")
    meant = [other for other in (f"/v1{bare}", bare.removeprefix("/v1")) if other != bare and other in api_paths]
    if meant:
        return f"there is no such endpoint; is {meant[0]} meant? Look at the client's base URL"
    known = sorted(
        other for other in api_paths if "{" not in other and not other.startswith("/docs/") and other != "/generate/"
    )
    return f"there is no such endpoint; there are {', '.join(known)}"


def unreadable_body(cause: BaseException | None) -> Failure | None:
    """For a body that the parser of JSON gave up on; None where that isn't what happened."""
    match cause:
        case UnicodeDecodeError():
            problem = f"the body must be JSON in UTF-8; byte {cause.start} belongs to no character"
        case RecursionError():
            problem = "the body is nested too deeply"
        case ValueError():
            problem = "the body holds a number of too many digits"
        case _:
            return None
    return failure_of(InvalidRequestError.of("request", problem))


INTERNAL_FAILURE = Failure(500, "internal error; the router's log has the details", _SERVER, code="internal_error")


def _refusal(error: InvalidRequestError) -> Failure:
    fields = [violation.field for violation in error.violations]
    if "model" in fields:
        return Failure(404, str(error), param="model", code="model_not_found")
    first = fields[0] if fields else ""
    return Failure(400, str(error), param=None if first in ("", "request") else first)


def invalid_body(problems: Sequence[Mapping[str, Any]], names: Collection[str], refusals: Mapping[str, str]) -> Failure:
    """What pydantic finds wrong with a body whose fields are ``names``. ``refusals`` says why known fields are refused."""
    violations = [_violation_of(problem, names, refusals) for problem in problems[:_MAX_NUM_TOLD]]
    return failure_of(InvalidRequestError(violations))


def _violation_of(problem: Mapping[str, Any], names: Collection[str], refusals: Mapping[str, str]) -> FieldViolation:
    where = _path([part for part in problem["loc"] if part != "body"])
    match problem["type"]:
        case "missing":
            return FieldViolation(where or "request", "is missing" if where else "there is no body; send a JSON object")
        case "extra_forbidden":
            return FieldViolation(where, refusals.get(where) or _unknown(where, names))
        case "json_invalid":
            return FieldViolation("request", f"the body is no JSON: {problem['ctx']['error']}")
        case "model_attributes_type" | "dict_type":
            return FieldViolation(
                where or "request",
                "must be a JSON object"
                if where
                else "the body must be a JSON object, sent as Content-Type: application/json",
            )
        case "value_error":
            return FieldViolation(where or "request", str(problem["ctx"]["error"]))
        case _:
            said = problem["msg"].replace("Input should be", "must be")
            return FieldViolation(where or "request", f"{said}{_got(problem['input'])}")


def _got(value: object) -> str:
    """What was sent, where that is short."""
    shown = json.dumps(value) if isinstance(value, str | int | float) else ""
    return f", got {shown}" if 0 < len(shown) <= _MAX_SHOWN_LEN else ""


def _path(parts: Sequence[object]) -> str:
    """``messages[0].role`` of ``("messages", 0, "role")``."""
    path = ""
    for part in parts:
        path += f"[{part}]" if isinstance(part, int) else f".{part}" if path else str(part)
    return path


def _unknown(name: str, names: Collection[str]) -> str:
    near = [other for other in _CALLED_ELSEWHERE.get(name, ()) if other in names][:1]
    # Names within a field are not those of the endpoint.
    near = near or ([] if "." in name else difflib.get_close_matches(name, names, 1))
    return f"is no field of this endpoint{f'; is {near[0]} meant?' if near else ''}"


_TOKENS = ("max_output_tokens", "max_completion_tokens", "max_tokens", "max_new_tokens")
# What other endpoints, and other servers, call a field that is here.
_CALLED_ELSEWHERE: dict[str, tuple[str, ...]] = {
    **dict.fromkeys((*_TOKENS, "n_predict", "num_predict", "max_length"), _TOKENS),
    **dict.fromkeys(("messages", "input", "prompt", "content"), ("messages", "input", "prompt")),
    **dict.fromkeys(("response_format", "format"), ("response_format", "text")),
    **dict.fromkeys(("repeat_penalty", "repetition_penalty"), ("repetition_penalty",)),
    **dict.fromkeys(("stop_sequences", "stop_strings"), ("stop",)),
    **dict.fromkeys(("json_schema", "schema"), ("response_format", "structured_outputs")),
    "system": ("instructions", "messages"),
}


@dataclass(frozen=True, slots=True)
class SentNames:
    """How a client has called what protobuf calls otherwise. ``prompt`` is its field of the prompt, ``messages`` or ``prompt[3]``.

    ``messages`` are its names of single messages, where these are not what was sent.
    """

    prompt: str
    max_tokens: str = "max_tokens"
    num_log_probs: str = "logprobs"
    has_one_stop: bool = False
    messages: tuple[str, ...] = ()
    structure: str = ""
    """What says how an output must look."""
    response_format: str = "response_format"
    num_prompt_log_probs: str = "prompt_logprobs"

    @contextlib.contextmanager
    def renaming(self) -> Iterator[None]:
        """What is raised within has the client's names."""
        try:
            yield
        except InvalidRequestError as error:
            violations = [FieldViolation(self._name_of(v.field), v.description) for v in error.violations]
            raise InvalidRequestError(violations) from error

    def _name_of(self, field: str) -> str:
        field = field.removeprefix("sampling.")
        own = {
            "max_tokens": self.max_tokens,
            "num_log_probs": self.num_log_probs,
            "num_prompt_log_probs": self.num_prompt_log_probs,
            "keep_special_tokens": "skip_special_tokens",
            **dict.fromkeys(("prompt", "text", "chat", "token_ids", "token_ids.token_ids"), self.prompt),
        }
        if field in own:
            return own[field]
        # vLLM's field is called nearly so, and what is wrong with it is told by its own name.
        if re.match(r"structured_output(\.|$)", field):
            field = self.structure
        if field.startswith("response_format"):
            return field.replace("response_format", self.response_format, 1)
        if self.has_one_stop and field.startswith("stop["):
            return "stop"
        field = field.removeprefix("chat.").replace("_kwargs_json", "_kwargs")
        field = re.sub(r"\.attributes(_json)?", "", field)
        if self.messages:
            field = re.sub(r"^messages\[(\d+)\]", lambda found: self.messages[int(found[1])], field)
        return re.sub(r"^chat_template_kwargs\.tools", "tools", field)

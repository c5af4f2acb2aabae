"""The router and the clients name wrong values by the API's fields; who typed a command knows flags. Used where commands tell errors."""

from __future__ import annotations

from specgrove.errors import InvalidRequestError

_SAMPLING = (
    "temperature", "top_k", "top_p", "min_p", "repetition_penalty", "presence_penalty", "frequency_penalty", "seed",
)  # fmt: skip
_TYPED = {
    **{f"sampling.{name}": f"--{name.replace('_', '-')}" for name in _SAMPLING},
    **{
        f"sampling.structured_output.{name}": f"--{name.replace('_', '-')}"
        for name in ("json_object", "json_schema", "regex", "choice", "grammar")
    },
    "max_tokens": "--max-tokens",
    "num_prompt_log_probs": "--prompt-log-probs",
    "ignore_eos": "--ignore-eos",
    "stop": "--stop",
    "speculation.ssms": "--ssm",
    "speculation.disabled": "--no-speculation",
    "text": "the prompt",
    "chat": "the prompt",
    "chat.messages": "the prompt",
}


def in_flags(error: InvalidRequestError) -> str:
    """The error's text with what was typed in the place of fields."""
    return "; ".join(f"{_typed(violation.field)}: {violation.description}" for violation in error.violations)


def _typed(field: str) -> str:
    return _TYPED.get(field.partition("[")[0], field)

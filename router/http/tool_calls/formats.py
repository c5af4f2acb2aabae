"""The families' formats by name, and which one a chat template asks for. Used by ``router.http.calls``."""

from __future__ import annotations

import functools
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from router.http.tool_calls import mistral
from router.http.tool_calls.forms import Call, Form
from router.http.tool_calls.json_calls import begun_calls, calls_of
from router.http.tool_calls.json_forms import JsonBlock, LeadingJson, MarkedJson
from router.http.tool_calls.json_scan import JsonScan
from router.http.tool_calls.mistral import MistralForm
from router.http.tool_calls.reader import ToolCallReader
from router.http.tool_calls.tagged import (
    Tagged,
    begun_function_calls,
    begun_named_json_calls,
    function_calls,
    named_json_calls,
)
from router.http.tool_calls.tools import Tools
from specgrove.tokenizer import Tokenizer

_PYTHON_TAG = "<|python_tag|>"


@dataclass(frozen=True, slots=True)
class ToolCallFormat:
    """``keeps_special_tokens``: some of them mark calls, so outputs must have their texts."""

    name: str
    keeps_special_tokens: bool = False

    def readers(
        self, tools: Sequence[Mapping[str, Any]], num_outputs: int, *, may_be_many: bool
    ) -> list[ToolCallReader]:
        """For each output of a request that shows these tools."""
        forms = self._forms(Tools(tools))
        return [ToolCallReader(forms, may_be_many=may_be_many) for _ in range(num_outputs)]

    def _forms(self, tools: Tools) -> Sequence[Form]:
        begin_json = functools.partial(_begun_json, known=tools.names)
        hermes = Tagged("<tool_call>", "</tool_call>", calls_of, begin_json)
        match self.name:
            case "hermes":
                return (hermes,)
            case "qwen2_coder":
                return (hermes, Tagged("<tools>", "</tools>", calls_of, begin_json), JsonBlock(tools.names))
            case "qwen3_coder":
                read = functools.partial(function_calls, tools=tools)
                begin = functools.partial(begun_function_calls, tools=tools)
                return (
                    Tagged("<tool_call>", "</tool_call>", read, begin),
                    # Now and then the model leaves the outer tags out.
                    Tagged("<function=", "</function>", read, begin, with_tags=True),
                )
            case "llama3_json":
                begin = functools.partial(begun_named_json_calls, tools=tools)
                named = Tagged("<function=", "</function>", named_json_calls, begin, with_tags=True)
                return (MarkedJson(_PYTHON_TAG, tools.names), LeadingJson(tools.names), named)
            case "mistral":
                return (MistralForm(tools.names),)
            case _:
                return ()


def _begun_json(text: str, start: int, scan: JsonScan, *, known: Collection[str]) -> tuple[Call, ...]:
    return begun_calls(text, start, known, scan)


FORCED = ToolCallFormat("hermes")
"""Of calls that the model is made to write: see ``grammar``."""


def format_of(name: str, tokenizer: Tokenizer, model: str) -> ToolCallFormat:
    """The format of a name; for ``auto`` that of a model, by its chat template for tools and by its name."""
    name = _name_by(tokenizer.tool_template, model) if name == "auto" else name
    markers = {"mistral": mistral.MARKERS, "llama3_json": (_PYTHON_TAG,)}.get(name, ())
    return ToolCallFormat(name, any(tokenizer.special_token_id(marker) is not None for marker in markers))


def _name_by(template: str, model: str) -> str:
    if "[TOOL_CALLS]" in template:
        return "mistral"
    if "<tool_call>" in template and "<parameter=" in template:
        return "qwen3_coder"
    if _PYTHON_TAG in template or ("ipython" in template and '"parameters": ' in template):
        return "llama3_json"
    # Qwen2.5-Coder's template asks for Hermes's form, which the model seldom keeps.
    if '<tools>\\n{"name"' in template or ("<tool_call>" in template and "coder" in model.lower()):
        return "qwen2_coder"
    # Others' are text to it, and what is no call stays text. Templates without a word of tools leave it to the client's own words.
    return "hermes"

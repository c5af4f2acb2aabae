"""Calls of tools in an output's text, in the forms that families of models write them in. Used by ``chat`` and ``responses``.

``formats`` names the families and finds the one of a chat template; a format is one or several forms (``tagged``, ``json_forms``,
``mistral``), each of which finds its calls in a text; ``reader`` takes the text as it comes;
``grammar`` makes the model write calls.

Invariant: what is no call is text, so that nothing that the model wrote is lost; joined, pieces give what the whole text gives. What has
begun as a call stays one: a marker, a tool's name and the beginning of its arguments decide it, in streams and in whole answers alike.
"""

from router.http.tool_calls.formats import FORCED, ToolCallFormat, format_of
from router.http.tool_calls.json_calls import is_object
from router.http.tool_calls.reader import CallArguments, CallHead, CallPiece, ToolCall, ToolCallReader, whole_calls

__all__ = [
    "FORCED",
    "CallArguments",
    "CallHead",
    "CallPiece",
    "ToolCall",
    "ToolCallFormat",
    "ToolCallReader",
    "format_of",
    "is_object",
    "whole_calls",
]

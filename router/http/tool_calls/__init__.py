"""Calls of tools in an output's text, in the forms that families of models write them in. Used by ``chat`` and ``responses``.

``formats`` names the families and finds the one of a chat template; a format is one or several forms (``tagged``, ``json_forms``,
``mistral``), each of which finds its calls in a text; ``reader`` takes the text as it comes;
``grammar`` makes the model write calls.

Invariant: what is no call is text, so that nothing that the model wrote is lost; joined, pieces give what the whole text gives.
"""

from router.http.tool_calls.formats import FORCED, ToolCallFormat, format_of
from router.http.tool_calls.reader import ToolCall, ToolCallReader

__all__ = ["FORCED", "ToolCall", "ToolCallFormat", "ToolCallReader", "format_of"]

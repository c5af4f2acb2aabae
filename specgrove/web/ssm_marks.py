"""How each SSM is marked on the page: by a letter, a colour, and a kind of line or pattern: colours are not needed to tell them apart."""

from __future__ import annotations

import html
from collections.abc import Sequence

NUM_LOOKS = 6
"""Of which ``style.css`` and the chart's patterns have one each; further SSMs share them, and keep letters of their own."""
_SEVERAL = "several"
_OWN = "own"


class SsmMarks:
    """The marks of a router's SSMs."""

    def __init__(self, ssms: Sequence[str]) -> None:
        self.ssms = tuple(ssms)
        self._places = {name: place for place, name in enumerate(self.ssms)}

    def look(self, drafted_by: Sequence[str]) -> str:
        """The CSS class of a token: ``own``, ``several`` or ``ssm0``, ``ssm1``, …"""
        if not drafted_by:
            return _OWN
        if len(drafted_by) > 1:
            return _SEVERAL
        return f"ssm{self._places.get(drafted_by[0], 0) % NUM_LOOKS}"

    def letters(self, drafted_by: Sequence[str]) -> str:
        """A letter for each SSM; empty for the LLM's own."""
        return "".join(chr(ord("A") + self._places.get(name, 25) % 26) for name in drafted_by)

    def legend(self) -> str:
        """HTML: a sample of each mark, and its meaning."""
        samples = [
            (self.look((name,)), f'{html.escape(name)}<span class="letter">{self.letters((name,))}</span>')
            for name in self.ssms
        ]
        if len(self.ssms) > 1:
            samples.append((_SEVERAL, "several SSMs"))
        drafted = "".join(f'<li><span class="drafted {look}">{words}</span></li>' for look, words in samples)
        own = "<li>unmarked: the LLM's own</li>"
        lead = "<li>drafted by</li>" if samples else ""
        return f'<ul class="legend" aria-label="Who drafted what">{lead}{drafted}{own}</ul>'

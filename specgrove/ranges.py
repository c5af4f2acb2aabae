"""Which sampling parameters there can be: one table for the checks of the router, the LLM service and the command line."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Range:
    """Finite numbers from ``low`` to ``high``."""

    low: float
    high: float

    def problem(self, value: float) -> str | None:
        """What is wrong with ``value`` and what would be right, or ``None``."""
        if self._holds(value):
            return None
        # All digits where fewer would show a number that is in range.
        shown = f"{value:g}" if not self._holds(float(f"{value:g}")) else f"{value:.17g}"
        return f"must be in [{self.low:g}, {self.high:g}], got {shown}"

    def _holds(self, value: float) -> bool:
        return math.isfinite(value) and self.low <= value <= self.high


SAMPLING_RANGES = {
    "temperature": Range(0, 100),
    "top_p": Range(0, 1),
    "min_p": Range(0, 1),
    # It divides logits, which stay far from overflow so. On the wire it is a float of 32 bits, and 0.01 there is a little less.
    "repetition_penalty": Range(0.009999999776482582, 10),
    "presence_penalty": Range(-2, 2),
    "frequency_penalty": Range(-2, 2),
}
# Below it a temperature counts as 0: dividing by less overflows, and the most probable token is the choice anyway.
MIN_TEMPERATURE = 1e-4
LOGIT_BIASES = Range(-100, 100)
MAX_NUM_LOGIT_BIASES = 1024
MAX_NUM_LOG_PROBS = 20
# Of what a structured output must look like: all its texts, and how many there may be to choose from.
MAX_STRUCTURE_BYTES = 64 * 1024
MAX_NUM_CHOICES = 1024
# Of texts that end an output.
MAX_NUM_STOP_TEXTS = 16
MAX_STOP_TEXT_LEN = 256
# Outputs of one request by HTTP or vLLM's API, with all its prompts: each is a request of its own inside.
MAX_NUM_OUTPUTS = 128
# Of a text that tells whose cached prompts a request may share.
MAX_CACHE_SALT_LEN = 256

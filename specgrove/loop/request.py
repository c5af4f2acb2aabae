"""What a client asks for: a request on its way in, validated and tokenised.

Frozen and torch-free. ``specgrove.loop.works`` has what the loop asks of drafters and verifiers, ``specgrove.loop.output`` what comes out.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from specgrove.structures.structured_output import StructuredOutput

TraceContext = Mapping[str, str]
"""W3C's headers ``traceparent`` and ``tracestate``, by which spans of several services belong to one trace; empty: not traced."""
NOT_TRACED: TraceContext = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class SamplingParams:
    """How a token is chosen from the verifier's logits. Ranges are those of ``SamplingParams`` in token_tree.proto."""

    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    logit_bias: tuple[tuple[int, float], ...] = ()
    seed: int = 0
    min_tokens: int = 0
    stop_token_ids: tuple[int, ...] = ()
    num_log_probs: int | None = None
    structured_output: StructuredOutput | None = None

    @property
    def has_other_rules(self) -> bool:
        """Whether more decides what is chosen than drafters are told: temperature, seed, top-k and top-p."""
        has_penalty = self.repetition_penalty != 1 or self.presence_penalty != 0 or self.frequency_penalty != 0
        is_narrowed = bool(self.logit_bias) or self.structured_output is not None or self.min_tokens > 0
        return has_penalty or is_narrowed or self.min_p > 0


@dataclass(frozen=True, slots=True)
class SpeculationOptions:
    """How a client wants its request speculated; ``None`` leaves it to the tree policy."""

    disabled: bool = False
    ssms: tuple[str, ...] = ()
    max_num_nodes: int | None = None
    max_depth: int | None = None
    beam_width: int | None = None


@dataclass(frozen=True, slots=True)
class GenerationRequest:
    """One validated, tokenised request. ``deadline_s`` is on ``time.monotonic``'s clock.

    With ``max_tokens`` 0 the prompt is read, and nothing is output. ``num_prompt_log_probs``: None for none, 0 for those of the prompt's
    tokens, n for those of the n most probable ones, too. ``resumed_token_ids`` are output that is decided already.
    """

    session_id: str
    prompt_token_ids: tuple[int, ...]
    max_tokens: int
    sampling: SamplingParams = SamplingParams()
    speculation: SpeculationOptions = SpeculationOptions()
    deadline_s: float | None = None
    wants_prompt_progress: bool = False
    trace_context: TraceContext = field(default_factory=dict)
    num_prompt_log_probs: int | None = None
    resumed_token_ids: tuple[int, ...] = ()
    cache_salt: str = ""
    """Only requests with the same one share what is cached."""

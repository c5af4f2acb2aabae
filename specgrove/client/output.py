"""What a client of the router gets: chunks of an output, and what the request took. Frozen values, made by ``wire``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from specgrove.loop.output import FinishReason
from specgrove.loop.works import LogProbs


@dataclass(frozen=True, slots=True)
class OutputToken:
    """One token. ``text`` is what it completed; ``drafted_by`` is empty where the token is the verifier's own."""

    token_id: int
    text: str
    drafted_by: tuple[str, ...] = ()
    log_probs: LogProbs | None = None


@dataclass(frozen=True, slots=True)
class PromptToken:
    """One token of the prompt, and how probable the model found it after those before it. The first one has no ``log_probs``."""

    token_id: int
    text: str
    log_probs: LogProbs | None


@dataclass(frozen=True, slots=True)
class Usage:
    """What a request took. Fields as in ``Usage`` of router.proto; ``draft_ms`` and ``verify_ms`` are sums over the steps.

    Of an output that went on at another router, steps and times are those of the last one, behind ``num_resumed_tokens``.
    """

    num_prompt_tokens: int
    num_output_tokens: int
    num_verify_steps: int
    acceptance_histogram: tuple[int, ...]
    drafted_by_depth: tuple[int, ...]
    accepted_by_depth: tuple[int, ...]
    num_drafted_nodes: int
    first_token_ms: float
    decode_ms: float
    draft_ms: float
    verify_ms: float
    num_replays: int
    seed: int
    num_resumed_tokens: int = 0
    num_cached_prompt_tokens: int = 0

    @property
    def num_decided_tokens(self) -> int:
        """Output tokens that the steps made: those that weren't resumed."""
        return self.num_output_tokens - self.num_resumed_tokens

    @property
    def mean_acceptance_len(self) -> float:
        """Output tokens per step, the bonus token counted."""
        return self.num_decided_tokens / self.num_verify_steps if self.num_verify_steps else 0.0

    @property
    def tokens_per_s(self) -> float:
        """Output tokens after the first step's, per second of decoding; 0 where there was one step only."""
        return tokens_per_s([self])

    @property
    def num_decoded_tokens(self) -> int:
        """Output tokens after the first step's, which reads the prompt and has an empty tree: one token, in ``first_token_ms``."""
        return max(self.num_decided_tokens - 1, 0)


def tokens_per_s(usages: Sequence[Usage]) -> float:
    """``Usage.tokens_per_s`` of several outputs as of one; 0 where each had one step only."""
    decode_ms = sum(usage.decode_ms for usage in usages)
    return sum(usage.num_decoded_tokens for usage in usages) / decode_ms * 1e3 if decode_ms > 0 else 0.0


def tokens_per_step(usages: Sequence[Usage]) -> float:
    """Output tokens for each step of the LLM: 1 without speculation."""
    num_steps = sum(usage.num_verify_steps for usage in usages)
    return sum(usage.num_decided_tokens for usage in usages) / num_steps if num_steps else 0.0


@dataclass(frozen=True, slots=True)
class VerifiedNode:
    """A token that was drafted, and whether the verifier chose it, too. ``parent`` is a place in the list of nodes; the root has None.

    ``text`` is what the token stands for by itself; where that is a part of a character, it is U+FFFD. Other fields as in router.proto.
    """

    token_id: int
    text: str
    parent: int | None
    log_prob: float
    drafted_by: tuple[str, ...]
    is_accepted: bool


@dataclass(frozen=True, slots=True)
class StepDetails:
    """How a chunk came about. Fields as in ``StepDetails`` of router.proto; without ``nodes`` nothing was drafted."""

    num_verify_steps: int
    draft_ms: float
    verify_ms: float
    nodes: tuple[VerifiedNode, ...] = ()


@dataclass(frozen=True, slots=True)
class Chunk:
    """A piece of the output: what one step decided, or several. The last one has ``finish_reason`` and ``usage``.

    ``stop_reason`` is the stop text or the id of the stop token that ended the output, if one did.
    Where ``prompt_progress`` is asked for, pieces without tokens come before the first one: ``num_prompt_tokens_read``
    of the prompt's tokens have been read. With ``num_prompt_log_probs`` the prompt's tokens come in ``prompt_tokens``, before those of
    the output. Where ``step_details`` are asked for, chunks with tokens of the output have them.
    """

    tokens: tuple[OutputToken, ...]
    text: str
    finish_reason: FinishReason | None = None
    usage: Usage | None = None
    num_prompt_tokens_read: int | None = None
    stop_reason: str | int | None = None
    prompt_tokens: tuple[PromptToken, ...] = ()
    step_details: StepDetails | None = None


@dataclass(frozen=True, slots=True)
class Completion:
    """A whole output. ``stop_reason`` as in ``Chunk``; ``prompt_tokens`` are all of them, or without ``num_prompt_log_probs`` none."""

    text: str
    tokens: tuple[OutputToken, ...]
    finish_reason: FinishReason
    usage: Usage
    stop_reason: str | int | None = None
    prompt_tokens: tuple[PromptToken, ...] = ()

    @property
    def token_ids(self) -> tuple[int, ...]:
        """The ids of ``tokens``."""
        return tuple(token.token_id for token in self.tokens)


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """The model and the SSMs behind a router.

    ``recommended_sampling`` is what the model's generation_config.json names: parameters of ``generate`` with their values.
    """

    model: str
    architecture: str
    vocab_size: int
    max_model_len: int
    dtype: str
    eos_token_ids: tuple[int, ...]
    ssms: tuple[str, ...]
    version: str
    protocol_version: int = 0
    features: tuple[str, ...] = ()
    """What the router can do, by the names of ``specgrove.features``; empty of an older one."""
    recommended_sampling: Mapping[str, float] = field(default_factory=dict)

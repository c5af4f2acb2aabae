"""The values that travel between stages: a request on its way in, work items and their results, steps on their way out.

All are frozen and torch-free; ``specgrove.wire.works`` and ``specgrove.client.wire`` turn them into protobuf and back.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from specgrove.loop.token_tree import TokenTree
from specgrove.loop.verifier_knowledge import DraftSampling, HiddenStates, RowTopK, joined
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


# Where nothing is drafted: steps that the verifier makes before it is asked again. Each time it is, a batch's next pass may begin
# without the session. What is under way when an output ends is called off.
MAX_NUM_STEPS_AHEAD = 64


@dataclass(frozen=True, slots=True)
class TreePrices:
    """What parts of a tree must promise to be worth their time, as probabilities that they are accepted."""

    min_level_prob: float
    """A level is drafted where the paths of the nodes that it is drafted below are accepted with at least this probability, together."""
    min_node_prob: float
    """A node is proposed where its path is accepted with at least this probability."""


@dataclass(frozen=True, slots=True)
class TreeShape:
    """What a tree policy asks of the drafters. ``max_num_nodes`` leaves the root out; 0 means draft nothing.

    With ``prices`` drafters stop where more would not pay, and the verifier may leave nodes out that are not worth their rows.

    Where nothing is drafted, ``num_steps`` may be made before the policy is asked again, and a tree of shape ``probe`` may be drafted
    meanwhile, which is not verified: see ``Probe``.
    """

    max_num_nodes: int
    max_depth: int
    beam_width: int | None = None
    num_steps: int = 1
    probe: TreeShape | None = None
    prices: TreePrices | None = None


@dataclass(frozen=True, slots=True)
class DraftWork:
    """For a drafter: tokens committed from position ``base`` on, and the shape of the trees wanted below them.

    ``sampling`` comes with ``base`` 0, ``None`` then stands for greedy. ``hidden_states`` and ``row_top_k``: those that were not sent yet,
    where SSMs want them. For ``ahead_ms`` after its answer the drafter may go on growing the trees, till the session's next work comes.
    """

    session_id: str
    base: int
    new_token_ids: tuple[int, ...]
    shape: TreeShape
    ssms: tuple[str, ...] = ()
    timeout_ms: int | None = None
    trace_context: TraceContext = field(default_factory=dict)
    sampling: DraftSampling | None = None
    hidden_states: HiddenStates | None = None
    row_top_k: tuple[RowTopK, ...] = ()
    ahead_ms: int = 0


@dataclass(frozen=True, slots=True)
class DraftedTree:
    """One SSM's tree, and the token ids that mean something else to the SSM than to the LLM.

    Where some of its nodes have sources, the others are borrowed.
    """

    ssm: str
    tree: TokenTree
    foreign_ids: frozenset[int] = frozenset()


@dataclass(frozen=True, slots=True)
class Draft:
    """A drafter's answer. ``base`` is the committed length its trees extend.

    ``has_more``: the drafter goes on, and tells trees that have grown, each in place of that SSM's tree before.
    """

    base: int
    trees: tuple[DraftedTree, ...]
    draft_ms: float
    has_more: bool = False


@dataclass(frozen=True, slots=True)
class SessionParams:
    """What a verifier's session keeps for all its steps.

    ``num_prompt_log_probs`` as in ``GenerationRequest``: wanted are those of the prompt's tokens from place ``prompt_log_probs_start`` on,
    before the first verdict. The first token, at place 0, has none.

    ``hidden_layers``: those whose hidden states come with every verdict, and before the first one for ``hidden_window`` rows before the
    opening work's last token. ``num_row_top_k``: most probable tokens wanted of every verified row.
    """

    sampling: SamplingParams
    prompt_len: int
    wants_prompt_progress: bool = False
    trace_context: TraceContext = field(default_factory=dict)
    num_prompt_log_probs: int | None = None
    prompt_log_probs_start: int = 1
    hidden_layers: tuple[int, ...] = ()
    hidden_window: int = 0
    num_row_top_k: int = 0
    cache_salt: str = ""
    """Only sessions with the same one share what is cached."""


@dataclass(frozen=True, slots=True)
class VerifyWork:
    """For a verifier: tokens committed from position ``base`` on, and the tree to verify below them.

    ``session`` is present exactly when ``base`` is 0. Steps after the first decode incrementally, each from the verdict before, until
    a stop token, ``num_steps`` steps, or ``Verifier.finish_early``. ``is_suspect``: it was lost with what computed it,
    so it must not run beside another suspect.
    """

    session_id: str
    base: int
    new_token_ids: tuple[int, ...]
    tree: TokenTree
    session: SessionParams | None = None
    timeout_ms: int | None = None
    num_steps: int = 1
    is_suspect: bool = False
    may_leave_out_nodes: bool = False
    """Whether nodes may be left out whose rows are not worth their time to all sessions together."""


@dataclass(frozen=True, slots=True)
class LogProbs:
    """Log-probabilities at one position under the unprocessed distribution, of a structured output over the tokens that it allows.

    ``top`` is most probable first. ``rank`` is the token's place among all, from 1 on; of equally probable ones the lower id comes first.
    """

    log_prob: float
    rank: int
    top: tuple[tuple[int, float], ...] = ()


@dataclass(frozen=True, slots=True)
class Verdict:
    """A verifier's answer: accepted tokens, then the bonus token. ``accepted_nodes`` has one element fewer.

    ``has_more``: another verdict of the same work follows. With ``num_steps`` above 1 it is the answer of several steps without a
    tree: a token each, no nodes, the sum of their times and the rows of the last. ``hidden_states`` has a row for each token, that of the
    token before it.
    """

    base: int
    token_ids: tuple[int, ...]
    accepted_nodes: tuple[int, ...]
    log_probs: tuple[LogProbs, ...] = ()
    pass_ms: float = 0.0
    pass_num_rows: int = 0
    has_more: bool = False
    num_steps: int = 1
    hidden_states: HiddenStates | None = None
    row_top_k: tuple[RowTopK, ...] = ()
    left_out_nodes: tuple[int, ...] = ()
    """Nodes of the tree that were not verified, rising: not allowed by a structure, or not worth their rows."""
    num_cached_tokens: int = 0
    """With the first verdict of a session: of the tokens that it was opened with those whose keys and values were there."""

    def joined(self, following: Verdict) -> Verdict:
        """This one's steps and the following one's as one verdict. Neither may have accepted nodes of a tree."""
        return Verdict(
            base=self.base,
            token_ids=self.token_ids + following.token_ids,
            accepted_nodes=(),
            log_probs=self.log_probs + following.log_probs,
            pass_ms=self.pass_ms + following.pass_ms,
            pass_num_rows=following.pass_num_rows,
            has_more=following.has_more,
            num_steps=self.num_steps + following.num_steps,
            hidden_states=joined((self.hidden_states, following.hidden_states)),
            row_top_k=self.row_top_k + following.row_top_k,
            num_cached_tokens=self.num_cached_tokens + following.num_cached_tokens,
        )


@dataclass(frozen=True, slots=True)
class PromptProgress:
    """Before an item's first verdict, where the session asks for it: committed tokens that the verifier has taken in.

    ``log_probs`` are those of the prompt's tokens from place ``log_probs_start`` on which are known since the progress before;
    ``hidden_states`` the next rows of the session's ``hidden_window``.
    """

    num_tokens: int
    log_probs_start: int = 1
    log_probs: tuple[LogProbs, ...] = ()
    hidden_states: HiddenStates | None = None


class FinishReason(enum.Enum):
    """Why an output ended."""

    STOP = "stop"
    LENGTH = "length"


@dataclass(frozen=True, slots=True)
class CommittedToken:
    """One output token; ``drafted_by`` is empty where it is the verifier's own."""

    token_id: int
    drafted_by: tuple[str, ...] = ()
    log_probs: LogProbs | None = None


@dataclass(frozen=True, slots=True)
class ProposedTree:
    """One SSM's tree as it was merged with others: its probabilities are corrected. Borrowed nodes have no sources, others have one."""

    ssm: str
    tree: TokenTree
    told_log_probs: tuple[float, ...]
    """What the SSM said itself."""


@dataclass(frozen=True, slots=True)
class Probe:
    """A tree that was drafted while the verifier went on by itself, and compared with what it decided.

    It tells what verifying the tree would have accepted, since that changes no token.
    """

    tree: TokenTree
    asked: TreeShape
    """What drafters were asked for; the tree may have less."""
    accepted_depth: int
    draft_ms: float
    proposed: tuple[ProposedTree, ...] = ()
    token_ids: tuple[int, ...] = ()
    """What the verifier chose from the trees' root on, as far as it is known."""


@dataclass(frozen=True, slots=True)
class Reading:
    """Committed tokens that the drafters took in beside the verifier's work, and the time until the last of them had."""

    num_tokens: int
    ms: float


@dataclass(frozen=True, slots=True)
class VerifiedTree:
    """A tree that was drafted, and its nodes that the verifier chose, too. Bit i of a node's sources is ``ssms[i]``."""

    tree: TokenTree
    ssms: tuple[str, ...]
    accepted_nodes: tuple[int, ...]

    def drafted_by(self, node: int) -> tuple[str, ...]:
        """Names of the SSMs that drafted it."""
        return tuple(name for index, name in enumerate(self.ssms) if self.tree.sources[node] >> index & 1)


@dataclass(frozen=True, slots=True)
class Step:
    """What one verdict added to the output, and what it took: that of a step, or of ``num_steps`` without a tree.

    ``wall_ms`` is all of its time as the loop saw it, drafting and waiting included; ``probe`` and ``reading`` ended with it.
    With ``num_prompt_tokens_read`` nothing is decided yet: so much of the prompt has been read, and ``prompt_log_probs`` are those of its
    next tokens.
    """

    tokens: tuple[CommittedToken, ...]
    finish_reason: FinishReason | None
    num_drafted_nodes: int
    drafted_depth: int
    accepted_depth: int
    draft_ms: float
    verify_ms: float
    verify_num_rows: int
    num_replays: int
    num_steps: int = 1
    asked: TreeShape | None = None
    """What drafters were asked for, and ``drafted`` what came of it, nodes that were not verified among it. None: they were not asked."""
    drafted: TokenTree | None = None
    wall_ms: float = 0.0
    probe: Probe | None = None
    reading: Reading | None = None
    verified: VerifiedTree | None = None
    """The tree; None where nothing was drafted."""
    proposed: tuple[ProposedTree, ...] = ()
    """The trees that it was merged from."""
    num_prompt_tokens_read: int | None = None
    drafted_by_ssm: tuple[tuple[str, int], ...] = ()
    """The SSMs that had a part in the tree, each with the number of nodes that it drafted."""
    prompt_log_probs: tuple[LogProbs, ...] = ()
    num_cached_tokens: int = 0
    """Of the prompt's tokens those that the verifier had cached: with the first step."""
    was_ahead: bool | None = None
    """Whether the tree had been drafted while the one before was verified; None where drafters don't draft ahead."""

    @classmethod
    def of_progress(cls, progress: PromptProgress, num_replays: int) -> Step:
        """No step yet: only what is known of the prompt."""
        return cls(
            (), None, 0, 0, 0, 0.0, 0.0, 0, num_replays, num_steps=0,
            num_prompt_tokens_read=progress.num_tokens, prompt_log_probs=progress.log_probs,
        )  # fmt: skip

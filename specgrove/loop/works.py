"""What the loop asks of drafters and verifiers, and what they answer: works, drafts and verdicts.

Frozen and torch-free; ``specgrove.wire.works`` and ``specgrove.wire.drafts`` turn them into protobuf and back.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from specgrove.loop.request import SamplingParams, TraceContext
from specgrove.loop.token_tree import TokenTree
from specgrove.loop.verifier_knowledge import DraftSampling, HiddenStates, RowTopK, joined

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
    wants_hidden_states: bool = True
    """Whether the verifier shall tell hidden states meanwhile, where SSMs read them."""


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
    has_other_rules: bool = False
    """With ``base`` 0: whether more decides what is chosen than ``sampling`` tells (``SamplingParams.has_other_rules``)."""
    cache_salt: str | None = None
    """With ``base`` 0: only sessions with the same one share what is computed of their tokens. ``None``: this one shares nothing."""


@dataclass(frozen=True, slots=True)
class DraftedTree:
    """One SSM's tree, and the token ids that mean something else to the SSM than to the LLM.

    Where some of its nodes have sources, the others are borrowed.
    """

    ssm: str
    tree: TokenTree
    foreign_ids: frozenset[int] = frozenset()


@dataclass(frozen=True, slots=True)
class SsmTime:
    """What one SSM took for a draft, with a tree or without: the time that it worked, and the levels that it drafted."""

    ssm: str
    ms: float
    num_levels: int = 0


@dataclass(frozen=True, slots=True)
class Draft:
    """A drafter's answer. ``base`` is the committed length its trees extend; ``times`` are of the SSMs that were asked.

    ``has_more``: the drafter goes on, and tells trees that have grown, each in place of that SSM's tree before.
    """

    base: int
    trees: tuple[DraftedTree, ...]
    draft_ms: float
    has_more: bool = False
    times: tuple[SsmTime, ...] = ()


@dataclass(frozen=True, slots=True)
class SessionParams:
    """What a verifier's session keeps for all its steps.

    ``num_prompt_log_probs`` as in ``GenerationRequest``: wanted are those of the prompt's tokens from place ``prompt_log_probs_start`` on,
    before the first verdict. The first token, at place 0, has none.

    ``hidden_layers``: those whose hidden states come with verdicts (``VerifyWork.tells_hidden_states``), and before the first one for up to
    ``hidden_window`` rows before the opening work's last token: those that are computed for this session. ``num_row_top_k``: most probable
    tokens wanted of every verified row.
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
    tells_hidden_states: bool = True
    """Whether those that the session's parameters name are wanted with its answers, too."""


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
    """Nodes of the tree of which nothing is said, rising: not allowed by a structure, not worth their rows, or what may follow them was not
    known in time.
    """
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

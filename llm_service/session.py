"""A session of the verifier: the committed tokens it holds, their KV slots, and the work under way. Owned by the engine.

Invariant: ``slots`` covers a prefix of ``token_ids``. Between two works it covers all but the last token, which is the next tree's
root, unless the session had to give its slots back: then it is empty, and what the prefix cache doesn't know is computed again. The
first ``shared_len`` of them belong to the prefix cache, the others to the session.
"""

from __future__ import annotations

import math
from array import array
from collections.abc import Sequence
from dataclasses import dataclass, field

from llm_service.structure import OutputStructure
from llm_service.token_counts import TokenCounts
from specgrove.kernels.sampling import ChoiceParams, KnownToken
from specgrove.loop.request import SamplingParams
from specgrove.loop.token_tree import TokenTree
from specgrove.loop.works import SessionParams, Verdict, VerifyWork
from specgrove.ranges import MIN_TEMPERATURE
from specgrove.runtime.prefix_cache import Place
from specgrove.runtime.shared_slots import shared_len


@dataclass(slots=True, eq=False)
class Session:
    """What the verifier keeps of one request."""

    session_id: str
    sampling: SamplingParams
    prompt_len: int
    num_prompt_log_probs: int | None = None
    prompt_log_probs_start: int = 1
    """Place of the first token of the prompt whose log-probabilities, where they are wanted, have not been told."""
    token_ids: list[int] = field(default_factory=list)
    slots: array[int] = field(default_factory=lambda: array("i"))
    seen: TokenCounts = field(default_factory=TokenCounts)
    """Of all committed tokens, where there are penalties."""
    output_counts: TokenCounts = field(default_factory=TokenCounts)
    """Of those after the prompt, where there are penalties."""
    last_used_s: float = 0.0
    sent_s: float = -math.inf  # when the last verdict went out
    structure: OutputStructure | None = None
    """Where the output must look like something."""
    wants_prompt_progress: bool = False
    progress_s: float = -math.inf  # when its progress was last told
    seniority: int = 0
    """By the order in which sessions were opened, lower is older. It and ``is_admitted`` are set by ``Room`` alone."""
    is_admitted: bool = False
    """Whether it may take slots."""
    hidden_layers: tuple[int, ...] = ()
    """Those whose hidden states it wants, rising."""
    hidden_start: int = 0
    """Position of the first row before ``hidden_end`` whose hidden states are to be told. Rows that the prefix cache has are left out."""
    has_told_hidden: bool = False
    """Whether some before ``hidden_end`` were told: the others follow without a gap."""
    hidden_end: int = 0
    """That of the first row whose hidden states come with a verdict: of the last token that it was opened with."""
    num_row_top_k: int = 0
    """Most probable tokens that it wants of every verified row."""
    cache_salt: str = ""
    """Whose prefixes it may have: those of sessions with the same one."""
    place: Place | None = None
    """What it shares in the prefix cache, while it is admitted: see ``SlotHolder``. The next three are set by ``Room`` alone."""
    num_computed: int = 0
    """Tokens whose keys and values are there: not those of passes in flight."""
    furthest: int = 0
    """The most that this has been."""
    num_reused: int = 0
    """Tokens that it found in the prefix cache, and had never had before."""
    choice_params: ChoiceParams = field(init=False)

    def __post_init__(self) -> None:
        self.choice_params = _choice_params(self.sampling)

    @classmethod
    def of(cls, session_id: str, params: SessionParams) -> Session:
        """A session without tokens."""
        return cls(
            session_id,
            params.sampling,
            params.prompt_len,
            params.num_prompt_log_probs,
            params.prompt_log_probs_start,
            wants_prompt_progress=params.wants_prompt_progress,
            hidden_layers=params.hidden_layers,
            num_row_top_k=params.num_row_top_k,
            cache_salt=params.cache_salt,
        )

    @property
    def wants_log_probs(self) -> bool:
        """Whether log-probabilities of the prompt are still to be told."""
        return self.num_prompt_log_probs is not None and self.prompt_log_probs_start < self.prompt_len

    def known_after(self, start: int, end: int) -> dict[int, KnownToken]:
        """By their places in the chunk of tokens ``start`` to ``end - 1``, rows that are followed by a token of the prompt whose
        log-probabilities are wanted.
        """
        if self.num_prompt_log_probs is None:
            return {}
        places = range(max(start + 1, self.prompt_log_probs_start), min(end + 1, self.prompt_len))
        return {place - 1 - start: KnownToken(self.token_ids[place], self.num_prompt_log_probs) for place in places}

    @property
    def has_penalties(self) -> bool:
        """Whether what the tokens before are changes what follows."""
        penalties = (
            self.sampling.repetition_penalty,
            self.sampling.presence_penalty,
            self.sampling.frequency_penalty,
        )
        return penalties != (1, 0, 0)

    @property
    def num_output_tokens(self) -> int:
        """Committed tokens after the prompt."""
        return len(self.token_ids) - self.prompt_len

    @property
    def output_token_ids(self) -> list[int]:
        """Committed tokens after the prompt."""
        return self.token_ids[self.prompt_len :]

    @property
    def num_uncached(self) -> int:
        """Committed tokens before the root whose keys and values must still be computed."""
        return len(self.token_ids) - 1 - len(self.slots)

    @property
    def shared_len(self) -> int:
        """Of its slots those that belong to the prefix cache: they are the first ones."""
        return shared_len(self)

    @property
    def num_in_flight(self) -> int:
        """Tokens of the prompt that passes in flight compute."""
        return len(self.slots) - self.num_computed

    @property
    def max_shared_len(self) -> int:
        """Tokens that it may take from the prefix cache: not the root, nor what it must be told of the rows of.

        Hidden states from before its first row that is computed are computed for nobody's drafts; once some are told, all that follow are.
        """
        max_len = len(self.token_ids) - 1
        if self.wants_log_probs:
            max_len = min(max_len, self.prompt_log_probs_start - 1)
        if self.has_told_hidden and self.hidden_start < self.hidden_end:
            max_len = min(max_len, self.hidden_start)
        return max_len

    def take_num_reused(self) -> int:
        """``num_reused``, once: it is told with a verdict, and counted from there on."""
        found, self.num_reused = self.num_reused, 0
        return found

    def extend(self, token_ids: tuple[int, ...]) -> None:
        """Takes committed tokens in, and counts them where that changes what follows."""
        num_prompt_tokens = max(0, self.prompt_len - len(self.token_ids))
        if self.has_penalties:
            self.seen.add(token_ids)
            self.output_counts.add(token_ids[num_prompt_tokens:])
        self.token_ids.extend(token_ids)


@dataclass(slots=True, eq=False)
class PendingWork:
    """An item under way: the session it belongs to and the tree to verify once the session's context is cached."""

    item_id: int
    session: Session
    tree: TokenTree
    deadline_s: float | None
    nodes: Sequence[int] = ()
    """Where nodes of the tree that was sent are left out: which of its nodes those of ``tree`` are."""
    num_left_out: int = 0
    may_leave_out: bool = False
    """Whether nodes may be left out that are not worth their rows."""
    hidden_layers: tuple[int, ...] = ()
    """Those whose hidden states are told with its answers: the session's, or none."""
    num_steps_left: int = 1
    """Steps still to be made; ``tree`` belongs to the next one, those after it are steps ahead."""
    has_masks: bool = True
    """Whether it is known what may follow the tree's root; nodes that can't be are left out then."""
    is_in_flight: bool = False
    """Whether a pass over its tree is in flight."""
    unsent: Verdict | None = None
    """The verdict of steps ahead whose tokens go out with a later one's."""
    num_failures: int = 0
    """Passes in a row that failed with it. After the first it runs apart from others; after the second it is given up."""

    @classmethod
    def of(cls, item_id: int, session: Session, work: VerifyWork, now_s: float) -> PendingWork:
        """``deadline_s`` is on the same clock as ``now_s``."""
        deadline_s = None if work.timeout_ms is None else now_s + work.timeout_ms / 1e3
        pending = cls(
            item_id,
            session,
            work.tree,
            deadline_s,
            may_leave_out=work.may_leave_out_nodes,
            hidden_layers=session.hidden_layers if work.tells_hidden_states else (),
            num_steps_left=work.num_steps,
        )
        pending.ask_for_masks()
        return pending

    def ask_for_masks(self) -> None:
        """Those of ``tree``, where the output has a structure. They come later."""
        if self.session.structure is not None:
            self.has_masks = False
            self.session.structure.ask(self.session.output_token_ids, self.tree)

    def may_verify(self, *, is_alone: bool) -> bool:
        """Whether a pass may compute its tree: it has its masks, or will have them when the pass ends.

        Where the tree is not ``is_alone`` in the pass, but follows tokens of the session, its root costs little and may be in vain.
        """
        structure = self.session.structure
        return (
            self.has_masks or structure is None or (self.tree.num_nodes == 1 and (structure.is_quick or not is_alone))
        )

    @property
    def sits_out(self) -> bool:
        """Whether it may wait for long: its session for slots, or it for masks, and no pass over its tree is in flight."""
        return not self.is_in_flight and not (self.session.is_admitted and self.has_masks)

    def keep(self, nodes: Sequence[int]) -> None:
        """Leaves all other nodes of ``tree`` out. They are rising; the root is one of them, and so is the parent of each other one."""
        num_left_out = self.tree.num_nodes - len(nodes)
        if num_left_out:
            self.nodes = self.sent_nodes(nodes)
            self.tree = self.tree.of_nodes(nodes)
            self.num_left_out += num_left_out

    @property
    def kept(self) -> tuple[TokenTree, Sequence[int], int]:
        """What is left of the tree that was sent; may be set to what it was before."""
        return self.tree, self.nodes, self.num_left_out

    @kept.setter
    def kept(self, kept: tuple[TokenTree, Sequence[int], int]) -> None:
        self.tree, self.nodes, self.num_left_out = kept

    def left_out_nodes_with(self, unchosen_node: int | None) -> tuple[int, ...]:
        """Nodes of the tree that was sent which are not in ``tree``, nor at a node of it or below.

        Such a node holds the bonus token: its drafter was right, and nobody should learn that it was wrong.
        """
        verified = self.sent_nodes(range(self.tree.num_nodes))
        if unchosen_node is not None:
            below = {unchosen_node}
            for node in range(unchosen_node + 1, self.tree.num_nodes):
                if self.tree.parents[node] in below:
                    below.add(node)
            verified = self.sent_nodes([node for node in range(self.tree.num_nodes) if node not in below])
        elif not self.num_left_out:
            return ()
        return tuple(sorted(set(range(self.tree.num_nodes + self.num_left_out)).difference(verified)))

    def sent_nodes(self, nodes: Sequence[int]) -> tuple[int, ...]:
        """How nodes of ``tree`` are called in the tree that was sent."""
        return tuple(self.nodes[node] for node in nodes) if self.nodes else tuple(nodes)

    def go_on(self) -> None:
        """The next step ahead: its tree is the session's last token alone."""
        self.tree = TokenTree.of_root(self.session.token_ids[-1])
        self.nodes, self.num_left_out = (), 0
        self.num_steps_left -= 1
        self.is_in_flight = False
        self.num_failures = 0
        self.ask_for_masks()


def _choice_params(sampling: SamplingParams) -> ChoiceParams:
    return ChoiceParams(
        temperature=sampling.temperature if sampling.temperature >= MIN_TEMPERATURE else 0.0,
        top_k=sampling.top_k,
        top_p=sampling.top_p,
        min_p=sampling.min_p,
        repetition_penalty=sampling.repetition_penalty,
        presence_penalty=sampling.presence_penalty,
        frequency_penalty=sampling.frequency_penalty,
        seed=sampling.seed,
    )

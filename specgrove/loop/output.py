"""What comes out of the loop: steps of an output, each with its tokens and with what the tree policy learns from it.

Frozen and torch-free; ``specgrove.client.answers`` turns tokens into protobuf and back.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass

from specgrove.loop.token_tree import TokenTree
from specgrove.loop.works import LogProbs, PromptProgress, SsmTime, TreeShape


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
    ssm_times: tuple[SsmTime, ...] = ()
    """As ``Step.ssm_times``."""


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
    ssm_times: tuple[SsmTime, ...] = ()
    """For how long each SSM that was asked was waited for: less than it worked where others worked longer beside it."""

    @classmethod
    def of_progress(cls, progress: PromptProgress) -> Step:
        """No step yet: only what is known of the prompt."""
        return cls(
            (), None, 0, 0, 0, 0.0, 0.0, 0, 0, num_steps=0,
            num_prompt_tokens_read=progress.num_tokens, prompt_log_probs=progress.log_probs,
        )  # fmt: skip

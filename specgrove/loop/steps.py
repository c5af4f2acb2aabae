"""A verdict as the step that it is of an output: cut off where the output ends, with each token's drafters by name."""

from __future__ import annotations

from specgrove.loop.drafting import MergedTree
from specgrove.loop.output import CommittedToken, FinishReason, Probe, Reading, Step, VerifiedTree
from specgrove.loop.works import Verdict


def step_of(
    verdict: Verdict,
    merged: MergedTree,
    *,
    num_tokens_left: int,
    stop_token_ids: tuple[int, ...],
    num_replays: int,
    wall_ms: float,
    probe: Probe | None,
    reading: Reading | None,
) -> Step:
    """The verdict up to the first stop token or the last token allowed. ``merged`` is the tree that was verified."""
    num_tokens, finish_reason = _end(verdict.token_ids, num_tokens_left, stop_token_ids)
    verified = _verified(verdict, merged)
    return Step(
        tokens=_tokens(verdict, verified, num_tokens),
        finish_reason=finish_reason,
        num_drafted_nodes=verified.tree.num_nodes - 1 if verified is not None else 0,
        drafted_depth=max(verified.tree.depths()) if verified is not None else 0,
        asked=merged.asked,
        drafted=merged.tree if merged.asked is not None else None,
        accepted_depth=min(len(verdict.accepted_nodes), num_tokens),
        draft_ms=merged.draft_ms,
        verify_ms=verdict.pass_ms,
        verify_num_rows=verdict.pass_num_rows,
        num_replays=num_replays,
        num_steps=verdict.num_steps,
        wall_ms=wall_ms,
        probe=probe,
        reading=reading,
        drafted_by_ssm=_num_nodes_by_ssm(verified),
        verified=verified,
        proposed=merged.proposed,
        num_cached_tokens=verdict.num_cached_tokens,
        was_ahead=merged.was_ahead,
        ssm_times=merged.ssm_times,
    )


def _verified(verdict: Verdict, merged: MergedTree) -> VerifiedTree | None:
    """The part of the tree that was verified."""
    tree, accepted_nodes = merged.tree, verdict.accepted_nodes
    if verdict.left_out_nodes:
        left_out = set(verdict.left_out_nodes)
        nodes = [node for node in range(tree.num_nodes) if node not in left_out]
        tree = tree.of_nodes(nodes)
        accepted_nodes = tuple(nodes.index(node) for node in accepted_nodes)
    return VerifiedTree(tree, merged.ssms, accepted_nodes) if tree.num_nodes > 1 else None


def _end(
    token_ids: tuple[int, ...], num_tokens_left: int, stop_token_ids: tuple[int, ...]
) -> tuple[int, FinishReason | None]:
    """How many of the tokens are output, and why it ends with them."""
    for index, token_id in enumerate(token_ids[:num_tokens_left]):
        if token_id in stop_token_ids:
            return index + 1, FinishReason.STOP
    if len(token_ids) >= num_tokens_left:
        return num_tokens_left, FinishReason.LENGTH
    return len(token_ids), None


def _tokens(verdict: Verdict, verified: VerifiedTree | None, num_tokens: int) -> tuple[CommittedToken, ...]:
    drafted_by = [] if verified is None else [verified.drafted_by(node) for node in verified.accepted_nodes]
    return tuple(
        CommittedToken(
            verdict.token_ids[index],
            drafted_by[index] if index < len(drafted_by) else (),
            verdict.log_probs[index] if verdict.log_probs else None,
        )
        for index in range(num_tokens)
    )


def _num_nodes_by_ssm(verified: VerifiedTree | None) -> tuple[tuple[str, int], ...]:
    if verified is None:
        return ()
    nums, sources = [0] * len(verified.ssms), verified.tree.sources[1:]
    for ssms in set(sources):  # nodes share few sets of SSMs
        for index in range(ssms.bit_length()):
            if ssms >> index & 1:
                nums[index] += sources.count(ssms)
    return tuple((name, num) for name, num in zip(verified.ssms, nums, strict=True) if num)

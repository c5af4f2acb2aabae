"""All levels of a draft in one call of its runner, instead of a pass a level: Python and torch between the passes take time, too.

The same call reads the tokens that came out since the draft before.

Used by ``HiddenStateSsm`` where a draft is alone: several share their passes. Invariant: ``DraftTree`` alone decides what is in a tree.
What is found here it finds known, as with a tree that has grown ahead; what is missed, passes compute.
"""

from __future__ import annotations

from specgrove.models.hidden_state.spec import HiddenSsmSpec
from specgrove.program.level_draft import DraftedLevels, DraftLevel, KnownRoot, LevelDraft, UnreadRows
from specgrove.runtime.hidden_state_runner import HiddenStateRunner
from specgrove.runtime.shared_slots import SharedSlots
from ssm_service.draft_tree import DraftTree
from ssm_service.drafts import Draft
from ssm_service.pair_cache import PairCache
from ssm_service.proposing import row_of

MAX_NUM_PRODUCTS = 400_000_000
"""Of one call, at most: rows times weights, so that it takes about as long as a pass of the LLM. A draft that comes should rather share
the next pass than wait for longer. Where passes take several milliseconds, Python's time beside them is small anyway."""


def is_short(tree: DraftTree, spec: HiddenSsmSpec, num_unread: int = 0) -> bool:
    """Whether so many tokens may be read, and all levels of a tree computed, in one call; not where there are none."""
    has_large_head = not spec.has_own_head and spec.candidate_rank is None
    num_weights = spec.num_parameters + has_large_head * spec.hidden_size * spec.head_size
    return tree.num_children() > 0 and (num_unread + _max_num_computed(tree)) * num_weights <= MAX_NUM_PRODUCTS


def compute_levels(
    runner: HiddenStateRunner,
    draft: Draft,
    cache: PairCache,
    root: KnownRoot | UnreadRows,
    slots: SharedSlots,
    spec: HiddenSsmSpec,
    num_kept: int,
) -> DraftedLevels:
    """Computes what a draft's tree will read, as far as free slots go. ``root`` is the tree's; unread rows have their slots.

    Nothing else of the tree is known yet. Where idle sessions hold the slots, passes do the rest. ``num_kept``: proposals wanted of each
    node, at least.
    """
    taken = slots.allocate(min(_max_num_computed(draft.tree), slots.num_free))
    shape, levels = draft.tree.shape, _levels(draft, spec)
    found = runner.draft_levels(
        LevelDraft(
            context_slots=cache.slots,
            first_position=cache.first_position + len(cache.slots),
            root=root,
            levels=levels,
            slots=taken,
            max_num_nodes=shape.max_num_nodes,
            min_level_prob=0.0 if shape.prices is None else shape.prices.min_level_prob,
            num_kept=max(num_kept, *(level.num_children for level in levels)),
            noise_weight=spec.calibration.noise_weight,
            vocab_size=spec.vocab_size,
        )
    )
    nodes = cache.nodes
    for (parent, token_id, log_prob, following), slot in zip(found.nodes, taken, strict=False):
        place = nodes.add(parent, token_id, log_prob, slot)
        nodes.proposals[place] = following
        cache.state_of[place] = found.states, 1 + place
    slots.free(taken[len(found.nodes) :])
    return found


def _max_num_computed(tree: DraftTree) -> int:
    """Nodes below the root, at most: those of the last level are only proposed."""
    return sum(_num_expanded(tree, depth) for depth in range(1, tree.shape.max_depth))


def _num_expanded(tree: DraftTree, depth: int) -> int:
    most, max_num_nodes = tree.rule.num_expanded(depth, tree.shape), tree.shape.max_num_nodes
    return max_num_nodes if most is None else min(most, max_num_nodes)


def _levels(draft: Draft, spec: HiddenSsmSpec) -> list[DraftLevel]:
    tree = draft.tree
    return [
        DraftLevel(
            tree.rule.num_children(depth, tree.shape),
            _num_expanded(tree, depth),
            row_of(len(draft.token_ids), depth, draft.sampling, spec.calibration),
        )
        for depth in range(1, tree.shape.max_depth + 1)
    ]

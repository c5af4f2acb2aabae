"""Protobuf to frozen dataclasses and back: what drafters are asked, and their drafts. Checked as ``specgrove.wire.works`` says."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from specgrove.config import MAX_NUM_SSMS
from specgrove.loop.works import Draft, DraftedTree, DraftWork, SsmTime, TreePrices, TreeShape
from specgrove.v1 import ssm_pb2
from specgrove.wire.verifier_knowledge import (
    draft_sampling_from_proto,
    draft_sampling_to_proto,
    hidden_states_in,
    hidden_states_to_proto,
    row_top_k_from_proto,
    row_top_k_to_proto,
)
from specgrove.wire.works import MAX_NUM_TOKENS, check_len, tree_from_proto, tree_to_proto

NO_FOREIGN_IDS: Mapping[str, frozenset[int]] = MappingProxyType({})


def draft_work_to_proto(work: DraftWork, item_id: int) -> ssm_pb2.DraftItem:
    """One item of a ``DraftRequest``."""
    return ssm_pb2.DraftItem(
        session_id=work.session_id,
        item_id=item_id,
        base=work.base,
        new_token_ids=work.new_token_ids,
        max_num_nodes=work.shape.max_num_nodes,
        max_depth=work.shape.max_depth,
        beam_width=work.shape.beam_width or 0,
        timeout_ms=work.timeout_ms or 0,
        min_level_prob=0.0 if work.shape.prices is None else work.shape.prices.min_level_prob,
        min_node_prob=0.0 if work.shape.prices is None else work.shape.prices.min_node_prob,
        ssms=work.ssms,
        trace_context=work.trace_context,
        sampling=draft_sampling_to_proto(work.sampling),
        hidden_states=hidden_states_to_proto(work.hidden_states),
        row_top_k=row_top_k_to_proto(work.row_top_k),
        ahead_ms=work.ahead_ms,
        has_other_rules=work.has_other_rules,
        cache_salt=work.cache_salt,
    )


def draft_work_from_proto(item: ssm_pb2.DraftItem) -> DraftWork:
    """The reverse of ``draft_work_to_proto``. Raises ``InvalidRequestError`` for too long lists, and what contradicts itself."""
    check_len("new_token_ids", item.new_token_ids, MAX_NUM_TOKENS)
    check_len("ssms", item.ssms, MAX_NUM_SSMS)
    has_prices = item.min_level_prob > 0 or item.min_node_prob > 0
    prices = TreePrices(item.min_level_prob, item.min_node_prob) if has_prices else None
    return DraftWork(
        session_id=item.session_id,
        base=item.base,
        new_token_ids=tuple(item.new_token_ids),
        shape=TreeShape(item.max_num_nodes, item.max_depth, item.beam_width or None, prices=prices),
        ssms=tuple(item.ssms),
        timeout_ms=item.timeout_ms or None,
        trace_context=dict(item.trace_context),
        sampling=draft_sampling_from_proto(item.sampling),
        hidden_states=hidden_states_in(item),
        row_top_k=row_top_k_from_proto(item.row_top_k),
        ahead_ms=item.ahead_ms,
        has_other_rules=item.has_other_rules,
        cache_salt=item.cache_salt if item.HasField("cache_salt") else None,
    )


def draft_to_proto(draft: Draft) -> ssm_pb2.Draft:
    """All fields."""
    return ssm_pb2.Draft(
        base=draft.base,
        trees=[_drafted_to_proto(drafted) for drafted in draft.trees],
        draft_ms=draft.draft_ms,
        has_more=draft.has_more,
        times=[ssm_pb2.SsmTime(ssm=time.ssm, ms=time.ms, num_levels=time.num_levels) for time in draft.times],
    )


def _drafted_to_proto(drafted: DraftedTree) -> ssm_pb2.DraftedTree:
    proto = ssm_pb2.DraftedTree(ssm=drafted.ssm, tree=tree_to_proto(drafted.tree))
    if any(drafted.tree.sources):
        proto.tree.sources.extend(drafted.tree.sources)
    return proto


def draft_from_proto(proto: ssm_pb2.Draft, foreign_ids: Mapping[str, frozenset[int]] = NO_FOREIGN_IDS) -> Draft:
    """The reverse of ``draft_to_proto``; trees are not validated. ``foreign_ids`` are those of ``DraftedTree``, by SSM."""
    trees = tuple(
        DraftedTree(
            drafted.ssm,
            tree_from_proto(drafted.tree),
            foreign_ids.get(drafted.ssm, frozenset()),
        )
        for drafted in proto.trees
    )
    times = tuple(SsmTime(time.ssm, time.ms, time.num_levels) for time in proto.times)
    return Draft(proto.base, trees, proto.draft_ms, proto.has_more, times)

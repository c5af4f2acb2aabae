"""How a piece of the output came about, for clients that ask for it: its steps and its token tree. Used by the servicer."""

from __future__ import annotations

from specgrove.loop.output import Step, VerifiedTree
from specgrove.tokenizer import Tokenizer
from specgrove.v1 import router_pb2


def step_details_of(step: Step, tokenizer: Tokenizer) -> router_pb2.StepDetails:
    """What clients are told of a step, as far as it is output."""
    return router_pb2.StepDetails(
        num_verify_steps=step.num_steps,
        draft_ms=step.draft_ms,
        verify_ms=step.verify_ms,
        nodes=[] if step.verified is None else _nodes_of(step.verified, tokenizer),
    )


def _nodes_of(verified: VerifiedTree, tokenizer: Tokenizer) -> list[router_pb2.VerifiedNode]:
    tree = verified.tree
    nodes = [
        router_pb2.VerifiedNode(
            token_id=tree.token_ids[node],
            token_bytes=tokenizer.token_bytes(tree.token_ids[node]),
            parent=tree.parents[node] if node else None,
            log_prob=tree.log_probs[node],
            drafted_by=verified.drafted_by(node),
        )
        for node in range(tree.num_nodes)
    ]
    for node in verified.accepted_nodes:
        nodes[node].is_accepted = True
    return nodes

"""What a request that asks for it is told of each step: the tree, what was accepted of it, and who drafted it."""

from __future__ import annotations

import math

from specgrove.v1 import router_pb2
from tests.router.generating import PROMPT, request_of, responses_to, token_ids_of
from tests.router.toy_language import toy_output
from tests.router.toy_suite import ToySuite


def accepted_path(details: router_pb2.StepDetails) -> list[int]:
    """Places of the accepted nodes, each the child of the one before."""
    path = [0]
    for place, node in enumerate(details.nodes):
        if node.is_accepted:
            assert node.parent == path[-1]
            path.append(place)
    return path[1:]


async def test_each_piece_tells_its_tree_and_what_was_accepted_of_it(suite: ToySuite) -> None:
    responses = await responses_to(suite, request_of(max_tokens=200, step_details=True))
    assert token_ids_of(responses) == toy_output(PROMPT, 200)
    last_token_id, num_drafted, num_steps = PROMPT[-1], 0, 0
    for response in responses:
        details = response.step_details
        num_steps += details.num_verify_steps
        token_ids = [token.token_id for token in response.tokens]
        if details.nodes:
            num_drafted += len(details.nodes) - 1
            root, *nodes = details.nodes
            assert root == router_pb2.VerifiedNode(token_id=last_token_id, token_bytes=bytes([last_token_id]))
            assert all(node.drafted_by and not math.isnan(node.log_prob) and node.log_prob <= 0 for node in nodes)
            assert all(node.parent < place for place, node in enumerate(nodes, 1))
            path = accepted_path(details)
            accepted = [details.nodes[place] for place in path]
            assert [node.token_id for node in accepted][: len(token_ids)] == token_ids[: len(path)]
            for node, token in zip(accepted, response.tokens, strict=False):
                assert node.drafted_by == token.drafted_by
        last_token_id = token_ids[-1]
    usage = responses[-1].usage
    assert num_drafted == usage.num_drafted_nodes > 0
    assert num_steps == usage.num_verify_steps < 200


async def test_without_a_tree_each_step_gave_one_token(suite: ToySuite) -> None:
    suite.llm.num_joined = 4
    disabled = router_pb2.SpeculationOptions(disabled=True)
    responses = await responses_to(suite, request_of(step_details=True, speculation=disabled))
    assert max(response.step_details.num_verify_steps for response in responses) == 4
    for response in responses:
        assert response.step_details.num_verify_steps == len(response.tokens)
        assert not response.step_details.nodes


async def test_who_does_not_ask_is_told_nothing(suite: ToySuite) -> None:
    assert not any(response.HasField("step_details") for response in await responses_to(suite, request_of()))

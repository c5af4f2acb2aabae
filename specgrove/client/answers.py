"""The public API's answers, seen from a client: protobuf to frozen values.

Used by ``specgrove.client``; requests are in ``specgrove.client.wire``.
"""

from __future__ import annotations

from collections.abc import Sequence

from specgrove.client.output import (
    Chunk,
    Completion,
    ModelInfo,
    OutputToken,
    PromptToken,
    StepDetails,
    Usage,
    VerifiedNode,
)
from specgrove.errors import InternalError
from specgrove.loop.output import FinishReason
from specgrove.loop.works import LogProbs
from specgrove.v1 import router_pb2
from specgrove.wire import works

_FINISH_REASON_OF_CODE = {
    router_pb2.FINISH_REASON_STOP: FinishReason.STOP,
    router_pb2.FINISH_REASON_LENGTH: FinishReason.LENGTH,
}


def chunk_from_proto(proto: router_pb2.GenerateResponse) -> Chunk:
    """One message of the stream."""
    return Chunk(
        tokens=tuple(_token_from_proto(token) for token in proto.tokens),
        text=proto.text,
        finish_reason=_FINISH_REASON_OF_CODE.get(proto.finish_reason),
        usage=usage_from_proto(proto.usage) if proto.HasField("usage") else None,
        num_prompt_tokens_read=proto.num_prompt_tokens_read or None,
        stop_reason=_stop_reason_of(proto),
        prompt_tokens=tuple(
            PromptToken(token.token_id, token.text, _log_probs_from_proto(token)) for token in proto.prompt_tokens
        ),
        step_details=_step_details_from_proto(proto.step_details) if proto.HasField("step_details") else None,
    )


def _step_details_from_proto(proto: router_pb2.StepDetails) -> StepDetails:
    nodes = tuple(
        VerifiedNode(
            token_id=node.token_id,
            text=node.token_bytes.decode(errors="replace"),
            parent=node.parent if node.HasField("parent") else None,
            log_prob=node.log_prob,
            drafted_by=tuple(node.drafted_by),
            is_accepted=node.is_accepted,
        )
        for node in proto.nodes
    )
    return StepDetails(proto.num_verify_steps, proto.draft_ms, proto.verify_ms, nodes)


def completion_of(chunks: Sequence[Chunk]) -> Completion:
    """All chunks of a stream as one value."""
    last = chunks[-1] if chunks else None
    if last is None or last.finish_reason is None or last.usage is None:
        raise InternalError("the router ended the output without a finish reason")
    return Completion(
        text="".join(chunk.text for chunk in chunks),
        tokens=tuple(token for chunk in chunks for token in chunk.tokens),
        finish_reason=last.finish_reason,
        usage=last.usage,
        stop_reason=last.stop_reason,
        prompt_tokens=tuple(token for chunk in chunks for token in chunk.prompt_tokens),
    )


def usage_from_proto(proto: router_pb2.Usage) -> Usage:
    """All fields."""
    return Usage(
        num_prompt_tokens=proto.num_prompt_tokens,
        num_output_tokens=proto.num_output_tokens,
        num_verify_steps=proto.num_verify_steps,
        acceptance_histogram=tuple(proto.acceptance_histogram),
        drafted_by_depth=tuple(proto.drafted_by_depth),
        accepted_by_depth=tuple(proto.accepted_by_depth),
        num_drafted_nodes=proto.num_drafted_nodes,
        first_token_ms=proto.first_token_ms,
        decode_ms=proto.decode_ms,
        draft_ms=proto.draft_ms,
        verify_ms=proto.verify_ms,
        num_replays=proto.num_replays,
        seed=proto.seed,
        num_resumed_tokens=proto.num_resumed_tokens,
        num_cached_prompt_tokens=proto.num_cached_prompt_tokens,
    )


def model_info_from_proto(proto: router_pb2.GetModelInfoResponse) -> ModelInfo:
    """All fields."""
    return ModelInfo(
        model=proto.model,
        architecture=proto.architecture,
        vocab_size=proto.vocab_size,
        max_model_len=proto.max_model_len,
        dtype=proto.dtype,
        eos_token_ids=tuple(proto.eos_token_ids),
        ssms=tuple(proto.ssms),
        version=proto.version,
        protocol_version=proto.protocol_version,
        features=tuple(proto.features),
        recommended_sampling={field.name: value for field, value in proto.recommended_sampling.ListFields()},
    )


def _stop_reason_of(proto: router_pb2.GenerateResponse) -> str | int | None:
    match proto.stop_reason.WhichOneof("reason"):
        case "text":
            return proto.stop_reason.text
        case "token_id":
            return proto.stop_reason.token_id
        case _:
            return None


def _token_from_proto(proto: router_pb2.GeneratedToken) -> OutputToken:
    return OutputToken(proto.token_id, proto.text, tuple(proto.drafted_by), _log_probs_from_proto(proto))


def _log_probs_from_proto(token: router_pb2.GeneratedToken | router_pb2.PromptToken) -> LogProbs | None:
    return works.log_probs_from_proto(token.log_probs) if token.HasField("log_probs") else None

"""A request's span: its attributes, by OpenTelemetry's conventions for generative AI, and its events. Used by the servicer."""

from __future__ import annotations

from router.output_messages import FINISH_REASONS
from specgrove.loop.output import Step
from specgrove.loop.request import TraceContext
from specgrove.telemetry.tracing import Attributes, Span, Tracing, Value, context_in
from specgrove.v1 import router_pb2

_SAMPLING = {
    "temperature": "gen_ai.request.temperature",
    "top_k": "gen_ai.request.top_k",
    "top_p": "gen_ai.request.top_p",
    "presence_penalty": "gen_ai.request.presence_penalty",
    "frequency_penalty": "gen_ai.request.frequency_penalty",
    "seed": "gen_ai.request.seed",
}
STEP_EVENT = "specgrove.step"


def start_span(tracing: Tracing, request: router_pb2.GenerateRequest, model: str, parent: TraceContext) -> Span:
    """Begins the span of a request that has arrived."""
    operation = "chat" if request.WhichOneof("prompt") == "chat" else "text_completion"
    attributes: dict[str, Value] = {
        "gen_ai.operation.name": operation,
        "gen_ai.provider.name": "specgrove",
        "gen_ai.request.model": model,
    }
    return tracing.start(f"{operation} {model}", parent, attributes)


def parameters(request: router_pb2.GenerateRequest, client_id: str | None = None) -> Attributes:
    """How tokens are to be chosen, as far as the request says it, and the client's id. For requests whose form has been checked."""
    sampling = request.sampling
    found: dict[str, Value] = {
        attribute: getattr(sampling, name)
        for name, attribute in _SAMPLING.items()
        if (
            sampling.HasField(name)
            if sampling.DESCRIPTOR.fields_by_name[name].has_presence
            else getattr(sampling, name)
        )
    }
    if client_id is not None:
        found["specgrove.request.client_id"] = client_id
    if request.max_tokens:
        found["gen_ai.request.max_tokens"] = request.max_tokens
    if request.stop:
        found["gen_ai.request.stop_sequences"] = list(request.stop)
    return found


def step_attributes(step: Step) -> Attributes:
    """What a step drafted, what was accepted, and how long both took, in milliseconds."""
    return {
        "specgrove.step.output_tokens": len(step.tokens),
        "specgrove.step.drafted_nodes": step.num_drafted_nodes,
        "specgrove.step.drafted_depth": step.drafted_depth,
        "specgrove.step.accepted_tokens": step.accepted_depth,
        "specgrove.step.num_steps": step.num_steps,
        "specgrove.step.replays": step.num_replays,
        "specgrove.step.draft_ms": step.draft_ms,
        "specgrove.step.verify_ms": step.verify_ms,
    }


def result_attributes(response: router_pb2.GenerateResponse, model: str, session_id: str) -> Attributes:
    """What came of the request, told by its last piece."""
    usage = response.usage
    return {
        "gen_ai.response.model": model,
        "gen_ai.response.id": session_id,
        "gen_ai.response.finish_reasons": [FINISH_REASONS[response.finish_reason]],
        "gen_ai.usage.input_tokens": usage.num_prompt_tokens,
        "gen_ai.usage.output_tokens": usage.num_output_tokens,
        "specgrove.request.num_steps": usage.num_verify_steps,
        "specgrove.request.drafted_nodes": usage.num_drafted_nodes,
        "specgrove.request.accepted_tokens": sum(depth * n for depth, n in enumerate(usage.acceptance_histogram)),
        "specgrove.request.first_token_ms": usage.first_token_ms,
        "specgrove.request.decode_ms": usage.decode_ms,
    }


def parent_of(context: object) -> TraceContext:
    """In the metadata of a client's call."""
    return context_in(context.invocation_metadata())  # type: ignore[attr-defined]

"""Traces of requests over all services, by OpenTelemetry: set up once in each ``__main__``, and nothing where nobody asked for them.

Spans of one request belong together by W3C's trace context: in the metadata of a client's call, and in the first work item of a
session between services. Invariant: without ``--otlp-endpoint`` OpenTelemetry isn't imported, and a step costs one comparison.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from specgrove.errors import SessionClosedError
from specgrove.loop.request import NOT_TRACED, TraceContext
from specgrove.version import version

if TYPE_CHECKING:
    from opentelemetry import trace

Value = str | bool | int | float | Sequence[str] | Sequence[int]
Attributes = Mapping[str, Value]

HEADERS = ("traceparent", "tracestate")
# One for each step; a context of 8192 tokens can have as many.
_MAX_NUM_EVENTS = 16_384
# Sessions whose end a service was not told of.
_MAX_NUM_SESSIONS = 4096
# A receiver that is away is asked again within this time; services that end wait for it no longer.
_EXPORT_TIMEOUT_S = 2


class Span:
    """What happens to one request in one service. This one records nothing. ``with`` ends it, and notes what ended it."""

    is_recording = False
    context: TraceContext = NOT_TRACED
    """For the spans of other services that belong below it."""

    def event(self, name: str, attributes: Attributes) -> None:
        """Something that happened now."""

    def set(self, attributes: Attributes) -> None:
        """What is known of the whole."""

    def end(self, error: BaseException | None = None) -> None:
        """No event follows."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.end(error)


class Tracing:
    """One per process. This one traces nothing."""

    def start(self, name: str, parent: TraceContext, attributes: Attributes) -> Span:
        """A span below ``parent``, or of a trace of its own."""
        return _NOT_RECORDED

    def shut_down(self) -> None:
        """Sends what is left. At most two seconds."""


_NOT_RECORDED = Span()
NO_TRACING = Tracing()


@dataclass(frozen=True, slots=True)
class TracingConfig:
    """Where spans go: an OTLP receiver's ``http://host:port``, by gRPC; ``None``: nowhere.

    Of the traces that begin here ``sample_ratio`` are recorded; for others it was decided where they began.
    """

    endpoint: str | None = None
    sample_ratio: float = 1.0


NOWHERE = TracingConfig()


def set_up_tracing(service: str, config: TracingConfig) -> Tracing:
    """Spans are sent by a thread of their own. A receiver that is away costs spans, never requests."""
    if config.endpoint is None:
        return NO_TRACING
    return _OpenTelemetry(service, config.endpoint, config.sample_ratio)


class SessionSpans:
    """A service's spans, one for each session that is traced. Used by servicers of work streams, on their event loop."""

    def __init__(self, tracing: Tracing, name: str) -> None:
        """``name`` is the spans'."""
        self._tracing = tracing
        self._name = name
        self._spans: OrderedDict[str, Span] = OrderedDict()

    def begin(self, session_id: str, parent: TraceContext) -> None:
        """With a session's first item. One that is sent anew begins a span anew."""
        if not parent:
            return
        self.end(session_id)
        if len(self._spans) >= _MAX_NUM_SESSIONS:
            self._spans.popitem(last=False)[1].end()
        span = self._tracing.start(self._name, parent, {"specgrove.session.id": session_id})
        if span.is_recording:
            self._spans[session_id] = span

    def of(self, session_id: str) -> Span:
        """The session's span, or one that records nothing."""
        return self._spans.get(session_id, _NOT_RECORDED)

    def end(self, session_id: str) -> None:
        """Harmless for sessions that have none."""
        if (span := self._spans.pop(session_id, None)) is not None:
            span.end()


class _OpenTelemetry(Tracing):
    def __init__(self, service: str, endpoint: str, sample_ratio: float) -> None:
        from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import SpanLimits, TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
        from opentelemetry.sdk.trace.sampling import ParentBased, TraceIdRatioBased
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        self._propagator = TraceContextTextMapPropagator()
        self._provider = TracerProvider(
            sampler=ParentBased(TraceIdRatioBased(sample_ratio)),
            resource=Resource.create({"service.name": service, "service.version": version()}),
            span_limits=SpanLimits(max_events=_MAX_NUM_EVENTS),
            shutdown_on_exit=False,
        )
        exporter = OTLPSpanExporter(
            endpoint=endpoint, insecure=not endpoint.startswith("https://"), timeout=_EXPORT_TIMEOUT_S
        )
        self._provider.add_span_processor(BatchSpanProcessor(exporter))
        self._tracer = self._provider.get_tracer("specgrove", version())

    def start(self, name: str, parent: TraceContext, attributes: Attributes) -> Span:
        from opentelemetry.trace import SpanKind

        context = self._propagator.extract(parent)
        span = self._tracer.start_span(name, context, SpanKind.SERVER, dict(attributes))
        return _RecordedSpan(span, self._context_of(span))

    def _context_of(self, span: trace.Span) -> TraceContext:
        from opentelemetry.trace import set_span_in_context

        carrier: dict[str, str] = {}
        self._propagator.inject(carrier, set_span_in_context(span))
        return carrier

    def shut_down(self) -> None:
        self._provider.shutdown()


class _RecordedSpan(Span):
    def __init__(self, span: trace.Span, context: TraceContext) -> None:
        self._span = span
        # A trace that is not recorded here is not recorded below either: that is what the context says.
        self.context = context
        self.is_recording = span.is_recording()

    def event(self, name: str, attributes: Attributes) -> None:
        self._span.add_event(name, dict(attributes))

    def set(self, attributes: Attributes) -> None:
        self._span.set_attributes(dict(attributes))

    def end(self, error: BaseException | None = None) -> None:
        from opentelemetry.trace import StatusCode

        if isinstance(error, GeneratorExit | asyncio.CancelledError | SessionClosedError):
            self._span.set_attribute("specgrove.cancelled", True)
        elif error is not None:
            self._span.set_attribute("error.type", type(error).__name__)
            self._span.set_status(StatusCode.ERROR, str(error))
        self._span.end()


def context_in(metadata: Sequence[tuple[str, Any]] | None) -> TraceContext:
    """The trace context in a call's metadata."""
    return {str(name): str(value) for name, value in metadata or () if name in HEADERS}

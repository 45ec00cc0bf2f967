"""The spans of a request and of its attempts, through OpenTelemetry's API: a host's SDK records and exports them."""

from __future__ import annotations

from contextvars import Token

import msgspec
from opentelemetry import context as otel
from opentelemetry.context import Context
from opentelemetry.metrics import MeterProvider, get_meter
from opentelemetry.trace import (
    NonRecordingSpan,
    Span,
    SpanContext,
    SpanKind,
    Status,
    StatusCode,
    TraceFlags,
    TracerProvider,
    TraceState,
    get_current_span,
    get_tracer,
    set_span_in_context,
)
from starlette.types import Scope

from bud_asgi.attempt import Attempt
from bud_asgi.exchange import Exchange
from bud_asgi.observer import Observer
from bud_asgi.options import check_flag, check_function, check_type
from bud_asgi.protocol.headers import TRACE_PARENT, TRACE_STATE, Headers
from bud_asgi.protocol.trace_context import trace_parent, trace_state
from bud_asgi.telemetry.opentelemetry import attributes as names
from bud_asgi.telemetry.opentelemetry.attributes import Attributes
from bud_asgi.telemetry.opentelemetry.content import Capture, Recorder
from bud_asgi.telemetry.opentelemetry.metrics import Metrics

SCOPE_NAME = "bud_asgi"
"""The name of the instrumentation scope."""


class _AttemptSpan(msgspec.Struct, frozen=True):
    """The span of an attempt, the context with it, what the span started with, and what keeps its content."""

    span: Span
    context: Context
    attributes: Attributes
    recorder: Recorder | None


class _Trace(msgspec.Struct, frozen=True):
    """What belongs to one request: its span, the context with it, and the spans of the attempts that are running."""

    span: Span
    context: Context
    token: Token[Context]
    attempts: dict[Attempt, _AttemptSpan]


class OpenTelemetry(Observer):
    """Traces requests and records metrics: `MessagesApp(observers=[OpenTelemetry()])`. Without an SDK it does nothing.

    A request has a server span, a child of the client's `traceparent`; if the host already has a current span, an
    internal span below that. Each attempt has a client span, with the attributes of OpenTelemetry's conventions for
    generative AI, if the span of its request is recorded. The spans are current while the request runs. To a provider
    with `trace_context`, each attempt sends its own `traceparent`.

    `tracer_provider` and `meter_provider` replace the global ones. `principal` adds the id and the team of the caller
    to the span of the request. Spans have no content, unless `capture` is given: a function that gets the `Content` of
    each recorded attempt, and returns what is recorded of it, or `None`. Raises `OptionError`.
    """

    def __init__(
        self,
        *,
        tracer_provider: TracerProvider | None = None,
        meter_provider: MeterProvider | None = None,
        principal: bool = False,
        capture: Capture | None = None,
    ) -> None:
        if tracer_provider is not None:
            check_type("tracer_provider", tracer_provider, TracerProvider, "a TracerProvider of OpenTelemetry")
        if meter_provider is not None:
            check_type("meter_provider", meter_provider, MeterProvider, "a MeterProvider of OpenTelemetry")
        check_flag("principal", principal)
        if capture is not None:
            check_function("capture", capture, "a function of the Content that returns a Content or None", None)
        self._tracer = get_tracer(SCOPE_NAME, tracer_provider=tracer_provider, schema_url=names.SCHEMA_URL)
        self._metrics = Metrics(get_meter(SCOPE_NAME, meter_provider=meter_provider, schema_url=names.SCHEMA_URL))
        self._principal, self._capture = principal, capture
        self._traces: dict[Exchange, _Trace] = {}

    def request_started(self, exchange: Exchange, scope: Scope) -> None:
        """Start the span of a request, and make it current."""
        current = get_current_span().get_span_context()
        if current.is_valid and not current.is_remote:
            name = exchange.operation or "unknown operation"
            span = self._tracer.start_span(name, kind=SpanKind.INTERNAL)
        else:
            parent = None if current.is_valid else _context_of_client(exchange.headers)
            attributes = names.server_attributes(exchange, scope)
            span = self._tracer.start_span(names.server_name(exchange), parent, SpanKind.SERVER, attributes)
        span_context = span.get_span_context()
        if span_context.is_valid:
            exchange.trace_id = f"{span_context.trace_id:032x}"
        context = set_span_in_context(span)
        self._traces[exchange] = _Trace(span, context, otel.attach(context), {})

    def attempt_started(self, exchange: Exchange, attempt: Attempt) -> None:
        """Start the span of an attempt, and make it current: it may go on in a task of its own."""
        trace = self._traces.get(exchange)
        if trace is None:
            return
        attributes = names.attempt_attributes(exchange, attempt)
        span, context, recorder = trace.span, trace.context, None
        if span.is_recording():  # to ask the sampler again for each attempt would take a third of all the time
            name = f"{attributes[names.OPERATION_NAME]} {attributes[names.REQUEST_MODEL]}"
            span = self._tracer.start_span(name, trace.context, SpanKind.CLIENT, attributes)
            context = set_span_in_context(span, trace.context)
            otel.attach(context)
            if self._capture is not None and span.is_recording() and not exchange.counting:
                recorder = Recorder(exchange)
                attempt.capture = recorder.add
        attempt.trace_context = _headers_of(span.get_span_context())
        trace.attempts[attempt] = _AttemptSpan(span, context, attributes, recorder)

    def attempt_ended(self, exchange: Exchange, attempt: Attempt) -> None:
        """End the span of an attempt, and record its metrics."""
        trace = self._traces.get(exchange)
        running = trace and trace.attempts.pop(attempt, None)
        if trace is None or running is None:
            return
        attempt.capture, answer = None, attempt.answer
        try:
            if running.span.is_recording():
                _set_result(running.span, names.reply_attributes(exchange, attempt, answer))
            self._metrics.record_attempt(exchange, attempt, running.attributes, answer, running.context)
            self._add_content(running)
        finally:
            if running.span is not trace.span:
                otel.attach(trace.context)  # without a token: a hedged attempt may end in another task
                running.span.end()

    def settled(self, exchange: Exchange) -> None:
        """End the span of a request, and record its metrics. The host's context is current again."""
        trace = self._traces.pop(exchange, None)
        if trace is None:
            return
        try:
            if trace.span.is_recording():
                found = names.request_attributes(exchange)
                if self._principal:
                    found.update(names.caller_attributes(exchange))
                _set_result(trace.span, found)
            self._metrics.record_request(exchange, trace.context)
        finally:
            try:
                trace.span.end()
            finally:
                otel.detach(trace.token)

    def _add_content(self, running: _AttemptSpan) -> None:
        if self._capture is None or running.recorder is None:
            return
        try:
            content = self._capture(running.recorder.content())
        except Exception as error:  # noqa: BLE001 - its message and its frames may contain what it was to remove
            raise RuntimeError(f"the function in capture= raised {type(error).__name__}") from None
        if content is not None:
            running.span.set_attributes(names.content_attributes(content))


def _set_result(span: Span, found: Attributes) -> None:
    span.set_attributes(found)
    if names.ERROR_TYPE in found:
        span.set_status(Status(StatusCode.ERROR))


def _context_of_client(headers: Headers) -> Context | None:
    """The context with the client's span as the parent; `None` without a valid `traceparent`.

    Only the trace is read, not the baggage: a client must not set what the host's own code sends on.
    """
    parent = trace_parent(headers)
    if parent is None:
        return None
    state = trace_state(headers)  # OpenTelemetry would write an invalid one to its log
    span = SpanContext(
        int(parent.trace_id, 16),
        int(parent.span_id, 16),
        is_remote=True,
        trace_flags=TraceFlags(parent.flags),
        trace_state=None if state is None else TraceState.from_header([state]),
    )
    return set_span_in_context(NonRecordingSpan(span))


def _headers_of(span: SpanContext) -> tuple[tuple[bytes, bytes], ...]:
    """The headers that make a span the parent of another server's."""
    if not span.is_valid:
        return ()
    parent = TRACE_PARENT, f"00-{span.trace_id:032x}-{span.span_id:016x}-{span.trace_flags:02x}".encode()
    return (parent, (TRACE_STATE, span.trace_state.to_header().encode("latin-1"))) if span.trace_state else (parent,)

"""What the observers of a request cost, in isolation: `make bench`.

Each is called with the events of an answered request, 100,000 times, minus the same without an observer (microseconds
of CPU, the best of some rounds). OpenTelemetry's figures include its SDK, without the export of spans.

With `--quick` everything is measured with small counts.
"""

from __future__ import annotations

import asyncio
import logging
import os
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec
from cost import table
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, ParentBased
from starlette.types import Scope

from bud_asgi import Attempt, Exchange, Observer, OpenTelemetry, Principal, Target, Usage
from bud_asgi.http import Origin
from bud_asgi.observer import Observers
from bud_asgi.protocol.request import MessagesRequest, decode_request
from bud_asgi.routing import Route, RouteTable
from bud_asgi.telemetry import AccessLog, LineHandler
from bud_asgi.telemetry.prometheus import RequestCounts
from bud_asgi.telemetry.prometheus.series import Names, Series

TIMES = 200 if "--quick" in sys.argv else 100_000
ROUNDS = 200
BODY = b'{"model":"claude-haiku-4-5","max_tokens":100,"messages":[{"role":"user","content":"Hello"}],"stream":%b}'
HEADERS = [
    (b"host", b"gateway"),
    (b"user-agent", b"Anthropic/Python 1.0"),
    (b"x-api-key", b"sk-bud-key"),
    (b"anthropic-version", b"2023-06-01"),
    (b"content-type", b"application/json"),
]
START = (
    b'{"type":"message_start","message":{"id":"msg_01","type":"message","role":"assistant","model":"claude-haiku-4-5",'
    b'"content":[],"stop_reason":null,"usage":{"input_tokens":10,"output_tokens":1}}}'
)
DELTA = b'{"type":"message_delta","delta":{"stop_reason":"end_turn","stop_sequence":null},"usage":{"output_tokens":20}}'
JSON = (
    b'{"id":"msg_01","type":"message","role":"assistant","model":"claude-haiku-4-5","content":[{"type":"text","text":'
    b'"Hello! How can I help you today?"}],"stop_reason":"end_turn","usage":{"input_tokens":10,"output_tokens":20}}'
)
PRINCIPAL = Principal(id="ann", team="red")
TARGET = Target("anthropic")
ROUTE = RouteTable([Route("claude-*", to=["anthropic"])]).resolve("claude-haiku-4-5", PRINCIPAL)
SERVER = Origin("api.anthropic.com", 443)
USAGE = Usage(input_tokens=10, output_tokens=20, cache_read_input_tokens=100)
VOID = Path(os.devnull).open("w")  # noqa: SIM115 - open until the end


def scope_of(*more: tuple[bytes, bytes]) -> Scope:
    """The scope of a request."""
    return {
        "type": "http",
        "http_version": "1.1",
        "method": "POST",
        "scheme": "http",
        "path": "/v1/messages",
        "headers": [*HEADERS, *more],
        "client": ("203.0.113.1", 1),
    }


def run(observers: Observers, scope: Scope, request: MessagesRequest) -> None:
    """The events of one request, and what is set between them."""
    scope.pop("bud_asgi.exchange", None)
    exchange = Exchange.of(scope)
    exchange.operation = "messages.create"
    if observers.request_started:
        observers.notify(observers.request_started, exchange, scope)
    exchange.principal, exchange.route = PRINCIPAL, ROUTE
    exchange.replace_request(request, ())
    attempt = Attempt(TARGET)
    exchange.attempts.append(attempt)
    if observers.attempt_started:
        attempt.service = "anthropic"
        observers.notify(observers.attempt_started, exchange, attempt)
    now = attempt.started
    attempt.sent, attempt.server, attempt.head, attempt.first_event = True, SERVER, now, now
    attempt.status, attempt.usage, attempt.upstream_request_id = 200, USAGE, "req_011"
    exchange.status, exchange.committed = 200, now
    if observers.response_started:
        observers.notify(observers.response_started, exchange)
    exchange.writes, exchange.last_write = (10, now) if request.stream else (0, 0.0)
    attempt.end, attempt.ended = "answered", now
    if observers.attempt_ended:
        attempt.reply = (START, DELTA) if request.stream else (JSON,)
        observers.notify(observers.attempt_ended, exchange, attempt)
        attempt.reply = ()
    exchange.usage, attempt.usage, exchange.outcome, exchange.ended = attempt.usage, None, "answered", now
    if observers.settled:
        observers.notify(observers.settled, exchange)


def microseconds(observers: Observers, *, stream: bool, headers: Sequence[tuple[bytes, bytes]] = ()) -> float:
    """CPU time for the events of one request."""
    scope, request = scope_of(*headers), decode_request(BODY % (b"true" if stream else b"false"), counting=False)
    run(observers, scope, request)
    best = float("inf")
    for _ in range(ROUNDS):
        began = time.process_time()
        for _ in range(TIMES // ROUNDS):
            run(observers, scope, request)
        best = min(best, (time.process_time() - began) / (TIMES // ROUNDS) * 1e6)
    return best


class NoOp(Observer):
    """An observer of all events that does nothing."""

    def request_started(self, exchange: Exchange, scope: Scope) -> None:
        """Do nothing."""

    def attempt_started(self, exchange: Exchange, attempt: Attempt) -> None:
        """Do nothing."""

    def attempt_ended(self, exchange: Exchange, attempt: Attempt) -> None:
        """Do nothing."""

    def response_started(self, exchange: Exchange) -> None:
        """Do nothing."""

    def settled(self, exchange: Exchange) -> None:
        """Do nothing."""


class Case(msgspec.Struct, frozen=True):
    """An observer to measure, and the request that it sees."""

    name: str
    make: Callable[[], Sequence[Observer]]
    stream: bool = False
    headers: Sequence[tuple[bytes, bytes]] = ()


def sampled_out() -> list[Observer]:
    """OpenTelemetry with spans that are not recorded."""
    return [OpenTelemetry(tracer_provider=TracerProvider(sampler=ParentBased(ALWAYS_OFF)))]


def traced() -> list[Observer]:
    """OpenTelemetry with spans that are recorded."""
    tracers = TracerProvider()
    tracers.add_span_processor(SpanProcessor())
    return [OpenTelemetry(tracer_provider=tracers)]


def metered() -> list[Observer]:
    """OpenTelemetry with metrics."""
    return [OpenTelemetry(meter_provider=MeterProvider(metric_readers=[InMemoryMetricReader()]))]


def access_log(handler: logging.Handler) -> list[Observer]:
    """The access log with one handler."""
    log = logging.getLogger("bud_asgi.access")
    log.handlers[:], log.propagate = [handler], False
    log.setLevel(logging.INFO)
    return [AccessLog()]


def lines() -> list[Observer]:
    """The access log of `bud-asgi serve`, into the void."""
    return access_log(LineHandler(VOID))


def records() -> list[Observer]:
    """The access log in a host: records with all fields, which no formatter formats."""
    return access_log(logging.NullHandler())


def prometheus() -> list[Observer]:
    """The counts for Prometheus."""
    return [RequestCounts(Series(), Names())]


def lines_and_prometheus() -> list[Observer]:
    """The access log of `bud-asgi serve`, and the counts."""
    return [*lines(), *prometheus()]


TRACEPARENT = ((b"traceparent", b"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"),)

CASES = (
    Case("an observer that does nothing", lambda: [NoOp()]),
    Case("access log, lines of JSON (serve)", lines),
    Case("access log, lines of JSON, a stream", lines, stream=True),
    Case("access log, records (in a host)", records),
    Case("Prometheus", prometheus),
    Case("Prometheus, a stream", prometheus, stream=True),
    Case("access log, lines of JSON, and Prometheus", lines_and_prometheus),
    Case("access log, lines of JSON, and Prometheus, a stream", lines_and_prometheus, stream=True),
    Case("OpenTelemetry without an SDK", lambda: [OpenTelemetry()]),
    Case("OpenTelemetry, not sampled", sampled_out),
    Case("OpenTelemetry, sampled", traced),
    Case("OpenTelemetry, sampled, below a span of the client", traced, headers=TRACEPARENT),
    Case("OpenTelemetry, sampled, a stream", traced, stream=True),
    Case("OpenTelemetry's metrics", metered),
    Case("OpenTelemetry's metrics, a stream", metered, stream=True),
)


async def main() -> None:
    """Measure every case, in an event loop: a `LineHandler` outside of one writes each line at once."""
    nothing = {stream: microseconds(Observers(), stream=stream) for stream in (False, True)}
    rows = [
        (
            case.name,
            microseconds(Observers(case.make()), stream=case.stream, headers=case.headers) - nothing[case.stream],
        )
        for case in CASES
    ]
    table("what an observer adds to a request", "µs", rows)


if __name__ == "__main__":
    asyncio.run(main())

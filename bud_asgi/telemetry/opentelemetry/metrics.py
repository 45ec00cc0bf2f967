"""The metrics: those of the conventions for generative AI, of each attempt, and two of each request."""

from __future__ import annotations

from opentelemetry.context import Context
from opentelemetry.metrics import Meter

from bud_asgi.attempt import Attempt
from bud_asgi.exchange import Exchange
from bud_asgi.protocol.answer import Answer
from bud_asgi.telemetry.opentelemetry import attributes as names
from bud_asgi.telemetry.opentelemetry.attributes import Attributes, Value

OPERATION_DURATION = "gen_ai.client.operation.duration"
TIME_TO_FIRST_CHUNK = "gen_ai.client.operation.time_to_first_chunk"
TIME_PER_OUTPUT_CHUNK = "gen_ai.client.operation.time_per_output_chunk"
TOKEN_USAGE = "gen_ai.client.token.usage"  # noqa: S105
REQUEST_DURATION = "bud.request.duration"
REQUEST_ADDED_TIME = "bud.request.added_time"

MAX_NAMES = 200
"""How many names of models, of routes and of targets the attributes of metrics may have; the others are `_OTHER`."""

_SECONDS = (0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92)
_TOKENS = (1, 4, 16, 64, 256, 1024, 4096, 16384, 65536, 262144, 1048576, 4194304, 16777216, 67108864)
_ADDED = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0)


class Metrics:
    """The instruments of one meter. Without an SDK they do nothing.

    No attribute has a value that a client can choose. A model is named if it is configured, or once an upstream has
    answered for it. A router function may compute routes and targets from what clients send: their number is bounded.
    """

    def __init__(self, meter: Meter) -> None:
        self._duration = meter.create_histogram(
            OPERATION_DURATION, "s", "GenAI operation duration.", explicit_bucket_boundaries_advisory=_SECONDS
        )
        self._first_chunk = meter.create_histogram(
            TIME_TO_FIRST_CHUNK,
            "s",
            "Time to the first event of a stream.",
            explicit_bucket_boundaries_advisory=_SECONDS,
        )
        self._per_chunk = meter.create_histogram(
            TIME_PER_OUTPUT_CHUNK,
            "s",
            "Mean time between two pieces of a stream.",
            explicit_bucket_boundaries_advisory=_SECONDS,
        )
        self._tokens = meter.create_histogram(
            TOKEN_USAGE, "{token}", "Tokens that an upstream reported.", explicit_bucket_boundaries_advisory=_TOKENS
        )
        self._requests = meter.create_histogram(
            REQUEST_DURATION, "s", "Duration of a request.", explicit_bucket_boundaries_advisory=_SECONDS
        )
        self._added = meter.create_histogram(
            REQUEST_ADDED_TIME,
            "s",
            "Time that the gateway itself added until the response began.",
            explicit_bucket_boundaries_advisory=_ADDED,
        )
        self._models: set[Value] = set()
        self._routes: set[Value] = set()
        self._targets: set[Value] = set()

    def record_request(self, exchange: Exchange, context: Context) -> None:
        """Record a request that has been settled."""
        found: Attributes = {names.BUD_OPERATION: exchange.operation or names.OTHER}
        if exchange.route is not None:
            found[names.BUD_ROUTE] = _bounded(self._routes, names.route_of(exchange))
        if (added := exchange.added) is not None:
            self._added.record(added, found, context)
        found = {**found, names.BUD_OUTCOME: exchange.outcome or names.OTHER}
        if exchange.status is not None:
            found[names.HTTP_RESPONSE_STATUS_CODE] = exchange.status
        if (error := names.error_of_request(exchange)) is not None:
            found[names.ERROR_TYPE] = error
        self._requests.record((exchange.ended or exchange.started) - exchange.started, found, context)

    def record_attempt(
        self, exchange: Exchange, attempt: Attempt, known: Attributes, answer: Answer, context: Context
    ) -> None:
        """Record an attempt that has ended. `known` are the attributes that it started with."""
        found = self._attempt_attributes(attempt, known, answer)
        first = attempt.first_event
        if first is not None and exchange.decoded_request.stream:
            self._first_chunk.record(first - attempt.started, found, context)
            if attempt is exchange.attempts[-1] and exchange.writes > 1:
                mean = (exchange.last_write - first) / (exchange.writes - 1)
                self._per_chunk.record(max(0.0, mean), found, context)
        usage = attempt.usage
        if usage is not None and not usage.estimated:
            self._tokens.record(names.input_tokens(usage), {**found, names.TOKEN_TYPE: "input"}, context)
            self._tokens.record(usage.output_tokens or 0, {**found, names.TOKEN_TYPE: "output"}, context)
        found = {**found, names.BUD_ATTEMPT_END: attempt.end or names.OTHER}  # an SDK may keep the former
        if (error := names.error_of_attempt(attempt)) is not None:
            found[names.ERROR_TYPE] = error
        self._duration.record((attempt.ended or attempt.started) - attempt.started, found, context)

    def _attempt_attributes(self, attempt: Attempt, known: Attributes, answer: Answer) -> Attributes:
        answered = attempt.end == "answered"
        named = answered or attempt.target.model is not None
        found: Attributes = {
            names.OPERATION_NAME: known[names.OPERATION_NAME],
            names.PROVIDER_NAME: attempt.service,
            names.REQUEST_MODEL: self._model(known[names.REQUEST_MODEL], is_named=named),
            names.BUD_TARGET: _bounded(self._targets, known[names.BUD_TARGET]),
        }
        if attempt.server is not None:
            found[names.SERVER_ADDRESS], found[names.SERVER_PORT] = attempt.server.host, attempt.server.port
        if answer.model is not None:
            found[names.RESPONSE_MODEL] = self._model(names.text(answer.model), is_named=answered)
        return found

    def _model(self, model: Value, *, is_named: bool) -> Value:
        """A name of a model, or `_OTHER` for one that only a client has named, or one too many."""
        return _bounded(self._models, model) if is_named or model in self._models else names.OTHER


def _bounded(known: set[Value], name: Value) -> Value:
    """The name, or `_OTHER` for one too many."""
    if name not in known:
        if len(known) >= MAX_NAMES:
            return names.OTHER
        known.add(name)
    return name

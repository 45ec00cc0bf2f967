"""What the access log shows of a request: its fields, without content or credentials."""

from __future__ import annotations

import logging
import time
from functools import lru_cache

import msgspec

from bud_asgi.attempt import AttemptEnd
from bud_asgi.exchange import Exchange, Outcome
from bud_asgi.limit import limit_words
from bud_asgi.printable import printable
from bud_asgi.protocol.trace_context import trace_id_of
from bud_asgi.protocol.usage import ServerToolUse, Usage

MAX_TEXT = 200
"""Characters of a text of the client's or an upstream's, such as the path."""

_MAX_ITERATIONS = 10
_MAX_DROPPED = 20
_FROM_HOSTS = ("principal", "team", "client_address", "model", "route", "target")


class IterationLine(msgspec.Struct, frozen=True, omit_defaults=True):
    """The fields of a sampling within a request."""

    type: str | None = None
    model: str | None = None
    input_tokens: int | None = None
    output_tokens: int | None = None
    cache_creation_input_tokens: int | None = None
    cache_read_input_tokens: int | None = None


class AttemptLine(msgspec.Struct, frozen=True, omit_defaults=True, gc=False):
    """The fields of an attempt: `start_milliseconds` from the arrival of the request, the others from that start."""

    target: str
    start_milliseconds: float
    milliseconds: float | None = None
    first_event_milliseconds: float | None = None
    status: int | None = None
    end: AttemptEnd | None = None


class AccessLine(msgspec.Struct, omit_defaults=True):
    """The fields of a request, in the order of a line. Optional ones are left out where there is nothing to show.

    `docs/observability.md` describes each. The names and types are stable: fields may be added, and none is changed or
    removed without a new major version.
    """

    time: str
    level: str
    request_id: str
    operation: str | None
    status: int | None
    outcome: Outcome | None
    milliseconds: float
    method: str | None = None
    path: str | None = None
    error_type: str | None = None
    refused_by: str | None = None
    over_limits: list[str] | None = None
    trace_id: str | None = None
    principal: str | None = None
    team: str | None = None
    client_address: str | None = None
    user_agent: str | None = None
    requested_model: str | None = None
    model: str | None = None
    route: str | None = None
    target: str | None = None
    attempts: list[AttemptLine] | None = None
    stream: bool = False
    body_milliseconds: float | None = None
    added_milliseconds: float | None = None
    first_byte_milliseconds: float | None = None
    longest_gap_milliseconds: float | None = None
    input_tokens: int | None = None
    output_tokens: int | None = None
    cache_creation_input_tokens: int | None = None
    cache_read_input_tokens: int | None = None
    ephemeral_5m_input_tokens: int | None = None
    ephemeral_1h_input_tokens: int | None = None
    thinking_tokens: int | None = None
    server_tool_use: dict[str, int] | None = None
    iterations: list[IterationLine] | None = None
    service_tier: str | None = None
    inference_geo: str | None = None
    speed: str | None = None
    estimated: bool = False
    dropped: list[str] | None = None
    upstream_request_id: str | None = None
    guardrail: str | None = None
    revision: int = 0


def level_of(exchange: Exchange) -> int:
    """The level of a request's line: ERROR for a failure of the gateway itself, WARNING for one of an upstream's.

    WARNING are all other statuses from 500, and responses that were cut. What a client caused is INFO.
    """
    outcome, status = exchange.outcome, exchange.status
    if outcome == "answered" and status == 200:
        return logging.INFO
    if outcome == "refused" and status == 500:
        return logging.ERROR
    is_failure = outcome in {"upstream_failed", "cancelled"} or (status is not None and status >= 500)
    return logging.WARNING if is_failure else logging.INFO


def access_line(exchange: Exchange, now: float) -> AccessLine:
    """The line of a request that ends `now`, in seconds since the epoch."""
    started = exchange.started
    line = AccessLine(
        rfc3339(now),
        _LEVEL_NAMES[level_of(exchange)],
        exchange.request_id,
        exchange.operation,
        exchange.status,
        exchange.outcome,
        ((exchange.ended or started) - started) * 1e5 // 1 / 100,
    )
    _add_caller(line, exchange)
    if exchange.attempts:
        _add_attempts(line, exchange)
    if exchange.usage is not None:
        _add_usage(line, exchange.usage)
    if exchange.error_type is not None:
        line.error_type = _text(exchange.error_type)
    if exchange.refused_by is not None:
        line.refused_by = limit_words(exchange.refused_by)
    if exchange.over_limits:
        line.over_limits = [limit_words(limit) for limit in exchange.over_limits]
    if exchange.committed is not None:
        line.first_byte_milliseconds = (exchange.committed - started) * 1e5 // 1 / 100
    if exchange.longest_gap:
        line.longest_gap_milliseconds = exchange.longest_gap * 1e5 // 1 / 100
    line.revision = exchange.revision
    return line


def _add_caller(line: AccessLine, exchange: Exchange) -> None:
    """Add who sent the request, and for which model."""
    line.trace_id = exchange.trace_id or trace_id_of(exchange.headers)
    if (principal := exchange.principal) is not None:
        line.principal, line.team = principal.id, principal.team
    if exchange.client:
        line.client_address = _text(str(exchange.client[0]))
    if user_agent := exchange.headers.get(b"user-agent"):
        line.user_agent = _text(user_agent[:MAX_TEXT].decode("latin-1"))
    if exchange.operation is None:
        line.method, line.path = _text(exchange.method), _text(exchange.path.partition("?")[0])
    if (route := exchange.route) is not None:
        line.model, line.route = route.model, getattr(route, "pattern", None)
        if line.route is None:  # of the host's own router
            line.model = _encodable(route.model)
    if (request := exchange.read_request) is not None:
        line.stream = request.stream
        line.body_milliseconds = exchange.body_wait * 1e5 // 1 / 100
        if request.model != line.model:
            line.requested_model = _text(request.model)
    elif exchange.model_id:
        line.requested_model = _text(exchange.model_id)


def _add_attempts(line: AccessLine, exchange: Exchange) -> None:
    arrived, attempts = exchange.started, exchange.attempts
    lines: list[AttemptLine] = []
    for attempt in attempts:
        started, ended, first_event = attempt.started, attempt.ended, attempt.first_event
        line.target = attempt.target.name
        lines.append(
            AttemptLine(
                line.target,
                (started - arrived) * 1e5 // 1 / 100,
                None if ended is None else (ended - started) * 1e5 // 1 / 100,
                None if first_event is None else (first_event - started) * 1e5 // 1 / 100,
                attempt.status,
                attempt.end,
            )
        )
    line.attempts, last = lines, attempts[-1]
    line.upstream_request_id, line.guardrail = last.upstream_request_id, last.guardrail
    if last.dropped:
        line.dropped = [_text(name) for name in last.dropped[:_MAX_DROPPED]]
    line.added_milliseconds = (exchange.added or 0.0) * 1e5 // 1 / 100


def _add_usage(line: AccessLine, usage: Usage) -> None:
    line.input_tokens, line.output_tokens = usage.input_tokens, usage.output_tokens
    line.cache_creation_input_tokens = usage.cache_creation_input_tokens or None
    line.cache_read_input_tokens = usage.cache_read_input_tokens or None
    if (cache := usage.cache_creation) is not None:
        line.ephemeral_5m_input_tokens = cache.ephemeral_5m_input_tokens or None
        line.ephemeral_1h_input_tokens = cache.ephemeral_1h_input_tokens or None
    if (details := usage.output_tokens_details) is not None:
        line.thinking_tokens = details.thinking_tokens or None
    if (tools := usage.server_tool_use) is not None:
        line.server_tool_use = _server_tool_use(tools)
    if usage.iterations:
        line.iterations = [IterationLine(*msgspec.structs.astuple(one)) for one in usage.iterations[:_MAX_ITERATIONS]]
    line.service_tier, line.inference_geo, line.speed = usage.service_tier, usage.inference_geo, usage.speed
    line.estimated = usage.estimated


def _server_tool_use(tools: ServerToolUse) -> dict[str, int] | None:
    known = (("web_search_requests", tools.web_search_requests), ("web_fetch_requests", tools.web_fetch_requests))
    return {name: count for name, count in (*known, *tools.other.items()) if count} or None


def encode_line(line: AccessLine) -> bytes:
    """Encode a line as printable JSON. Never raises, whatever a host's backend or server put into it."""
    try:
        encoded = _encode(line)
    except (TypeError, ValueError, OverflowError):
        encoded = _encode(_with_texts(line))
    return printable_json(encoded)


def line_as_dict(line: AccessLine) -> dict[str, object]:
    """The fields as built-in types, which every formatter can encode. Never raises."""
    try:
        return msgspec.to_builtins(line)
    except (TypeError, ValueError, OverflowError):
        return msgspec.to_builtins(_with_texts(line))


_encode = msgspec.json.Encoder().encode
_DELETE = 0x7F
_LEVEL_NAMES = {logging.INFO: "info", logging.WARNING: "warning", logging.ERROR: "error"}


def printable_json(encoded: bytes) -> bytes:
    """Escape what is not printable in encoded JSON, which has only escaped ASCII's control characters."""
    if encoded.isascii() and _DELETE not in encoded:
        return encoded
    return printable(encoded.decode()).encode()


def _with_texts(line: AccessLine) -> AccessLine:
    """Replace what cannot be encoded in the fields that come from the host's code."""
    named = {name: _encodable(getattr(line, name)) for name in _FROM_HOSTS}
    attempts = [msgspec.structs.replace(one, target=_encodable(one.target)) for one in line.attempts or ()]
    return msgspec.structs.replace(line, **named, attempts=attempts or None)


def _encodable(value: object) -> str | None:
    """A text that can be encoded: surrogates are escaped, and anything else is replaced by the name of its type."""
    if value is None or isinstance(value, str):
        return value and value.encode("utf-8", "backslashreplace").decode()
    return f"<{type(value).__name__}>"


def _text(text: str) -> str:
    """A text from outside: printable, and cut."""
    if len(text) > MAX_TEXT:
        text = text[:MAX_TEXT]
    return text if text.isprintable() else printable(text)


@lru_cache(4)
def _to_second(seconds: int) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S.%%03dZ", time.gmtime(seconds))


def rfc3339(now: float) -> str:
    """A time in seconds since the epoch as UTC, with milliseconds."""
    seconds = int(now)
    return _to_second(seconds) % ((now - seconds) * 1000)

"""What the access log shows of a request: its fields, without content or credentials."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Sequence
from functools import lru_cache
from math import floor

import msgspec

from bud_asgi.attempt import Attempt, AttemptEnd
from bud_asgi.exchange import Exchange, Outcome
from bud_asgi.limit import limit_words
from bud_asgi.printable import printable
from bud_asgi.protocol.headers import TRACE_PARENT
from bud_asgi.protocol.request import MessagesRequest
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
    started, ended, committed = exchange.started, exchange.ended or exchange.started, exchange.committed
    attempts, request, usage = exchange.attempts, exchange.read_request, exchange.usage
    headers, principal, client = exchange.headers, exchange.principal, exchange.client
    last = attempts[-1] if attempts else None
    is_known = exchange.operation is not None
    # By position, which costs a fraction of what arguments with names do.
    return AccessLine(
        rfc3339(now),
        _LEVEL_NAMES[level_of(exchange)],
        exchange.request_id,
        exchange.operation,
        exchange.status,
        exchange.outcome,
        (ended - started) * 1e5 // 1.0 / 100.0,
        None if is_known else _text(exchange.method),
        None if is_known else _text(exchange.path.partition("?")[0]),
        exchange.error_type and _text(exchange.error_type),
        exchange.refused_by and limit_words(exchange.refused_by),
        [limit_words(limit) for limit in exchange.over_limits] if exchange.over_limits else None,
        exchange.trace_id or (trace_id_of(headers) if TRACE_PARENT in headers else None),
        None if principal is None else principal.id,
        None if principal is None else principal.team,
        *_client(str(client[0]) if client else "", headers.get(b"user-agent", b"")[:MAX_TEXT]),
        *_models(exchange, request),
        None if last is None else last.target.name,
        _attempt_lines(attempts, started) if attempts else None,
        request is not None and request.stream,
        None if request is None else exchange.body_wait * 1e5 // 1.0 / 100.0,
        (exchange.added or 0.0) * 1e5 // 1.0 / 100.0 if attempts else None,
        None if committed is None else (committed - started) * 1e5 // 1.0 / 100.0,
        exchange.longest_gap * 1e5 // 1.0 / 100.0 if exchange.longest_gap else None,
        *(_NO_USAGE if usage is None else _usage(usage)),
        [_text(name) for name in last.dropped[:_MAX_DROPPED]] if last is not None and last.dropped else None,
        None if last is None else last.upstream_request_id,
        None if last is None else last.guardrail,
        exchange.revision,
    )


# Each of these returns the values of some fields, in their order.

_Text = str | None
_Count = int | None
_UsageFields = tuple[
    *tuple[_Count, _Count, _Count, _Count, _Count, _Count, _Count],
    dict[str, int] | None,
    list[IterationLine] | None,
    *tuple[_Text, _Text, _Text, bool],
]


@lru_cache(maxsize=1024)
def _client(address: str, user_agent: bytes) -> tuple[_Text, _Text]:
    """`client_address`, `user_agent`. Most callers send more than one request."""
    return _text(address) or None, _text(user_agent.decode("latin-1")) or None


def _models(exchange: Exchange, request: MessagesRequest | None) -> tuple[_Text, _Text, _Text]:
    """`requested_model`, if it is another one than that of the route, `model`, `route`."""
    route, requested = exchange.route, exchange.model_id if request is None else request.model
    if route is None:
        return _text(requested) if requested else None, None, None
    pattern = getattr(route, "pattern", None)
    model = route.model if pattern is not None else _encodable(route.model)  # of the host's own router
    return None if requested == model or not requested else _text(requested), model, pattern


def _attempt_lines(attempts: Iterable[Attempt], arrived: float) -> list[AttemptLine]:
    lines: list[AttemptLine] = []
    for attempt in attempts:
        started, ended, first_event = attempt.started, attempt.ended, attempt.first_event
        line = AttemptLine(
            attempt.target.name,
            (started - arrived) * 1e5 // 1.0 / 100.0,
            None if ended is None else (ended - started) * 1e5 // 1.0 / 100.0,
            None if first_event is None else (first_event - started) * 1e5 // 1.0 / 100.0,
            attempt.status,
            attempt.end,
        )
        lines.append(line)
    return lines


def _usage(usage: Usage) -> _UsageFields:
    """The fields from `input_tokens` to `estimated`."""
    cache, details, tools = usage.cache_creation, usage.output_tokens_details, usage.server_tool_use
    iterations = usage.iterations[:_MAX_ITERATIONS] if usage.iterations else ()
    return (
        usage.input_tokens,
        usage.output_tokens,
        usage.cache_creation_input_tokens or None,
        usage.cache_read_input_tokens or None,
        None if cache is None else cache.ephemeral_5m_input_tokens or None,
        None if cache is None else cache.ephemeral_1h_input_tokens or None,
        None if details is None else details.thinking_tokens or None,
        None if tools is None else _server_tool_use(tools),
        [IterationLine(*msgspec.structs.astuple(one)) for one in iterations] if iterations else None,
        usage.service_tier,
        usage.inference_geo,
        usage.speed,
        usage.estimated,
    )


_NO_USAGE = _usage(Usage())


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


def encode_lines(lines: Sequence[AccessLine]) -> bytes:
    """Encode lines as printable JSON, with line ends between them. Never raises."""
    try:
        encoded = _encode_lines(lines)[:-1]
    except (TypeError, ValueError, OverflowError):
        encoded = b""
    if encoded and encoded.isascii() and _DELETE not in encoded:
        return encoded
    return b"\n".join(map(encode_line, lines))


def line_as_dict(line: AccessLine) -> dict[str, object]:
    """The fields as built-in types, which every formatter can encode. Never raises."""
    try:
        return msgspec.to_builtins(line)
    except (TypeError, ValueError, OverflowError):
        return msgspec.to_builtins(_with_texts(line))


_encoder = msgspec.json.Encoder()
_encode, _encode_lines = _encoder.encode, _encoder.encode_lines
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
def _to_second(second: float) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S.", time.gmtime(second))


def rfc3339(now: float) -> str:
    """A time in seconds since the epoch as UTC, with milliseconds."""
    second = now // 1.0
    return _to_second(second) + _MILLISECONDS[floor((now - second) * 1000.0)]


_MILLISECONDS = [f"{number:03d}Z" for number in range(1000)]

"""The access log: one line of JSON for each request, without content or credentials."""

from __future__ import annotations

import logging

import msgspec

from bud_asgi.exchange import Exchange, Outcome
from bud_asgi.limit import limit_words
from bud_asgi.observer import Observer
from bud_asgi.printable import printable
from bud_asgi.protocol.usage import ServerToolUse, Usage
from bud_asgi.telemetry.lines import LineHandler

_MAX_ITERATIONS = 10
_DELETE = 0x7F

_log = logging.getLogger("bud_asgi.access")


class IterationLine(msgspec.Struct, frozen=True, omit_defaults=True):
    """The fields of a sampling within a request."""

    type: str | None = None
    model: str | None = None
    input_tokens: int | None = None
    output_tokens: int | None = None
    cache_creation_input_tokens: int | None = None
    cache_read_input_tokens: int | None = None


class AccessLine(msgspec.Struct, omit_defaults=True):
    """The fields of a line; unknown ones are left out, and details of usage that are 0.

    Both times count from the arrival of the request, with two decimals. Counts have the names of the Messages API.
    `refused_by` is the limit that had no room, and `over_limits` are the observed ones that had none.
    """

    request_id: str
    operation: str | None
    status: int | None
    outcome: Outcome | None
    milliseconds: float
    first_byte_milliseconds: float | None = None
    principal: str | None = None
    model: str | None = None
    target: str | None = None
    attempts: int = 0
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
    upstream_request_id: str | None = None
    guardrail: str | None = None
    refused_by: str | None = None
    over_limits: list[str] | None = None


def access_line(exchange: Exchange) -> bytes:
    """Encode a finished exchange as one line of JSON. Never raises, whatever a host's backend or router put into it."""
    started = exchange.started
    line = AccessLine(
        exchange.request_id,
        exchange.operation,
        exchange.status,
        exchange.outcome,
        ((exchange.ended or started) - started) * 1e5 // 1 / 100,
        exchange.committed and (exchange.committed - started) * 1e5 // 1 / 100,
        exchange.principal.id if exchange.principal else None,
        exchange.route.model if exchange.route else None,
    )
    if exchange.attempts:
        attempt = exchange.attempts[-1]
        target = attempt.target
        line.target = f"{target.provider}/{target.model}" if target.model else target.provider
        line.attempts = len(exchange.attempts)
        line.upstream_request_id, line.guardrail = attempt.upstream_request_id, attempt.guardrail
    if exchange.usage is not None:
        _add_usage(line, exchange.usage)
    if exchange.refused_by is not None:
        line.refused_by = limit_words(exchange.refused_by)
    if exchange.over_limits:
        line.over_limits = [limit_words(limit) for limit in exchange.over_limits]
    return _encode(line)


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


class AccessLog(Observer):
    """Writes the line of each request."""

    def settled(self, exchange: Exchange) -> None:
        """Write the line of a request."""
        log_access(exchange)


def log_access(exchange: Exchange) -> None:
    """Write the line to the logger `bud_asgi.access`, at level INFO.

    If all that the logger has is a `LineHandler`, that gets the line as it is: a record would cost more than the line.
    """
    if not _log.isEnabledFor(logging.INFO):
        return
    line = access_line(exchange)
    if len(_log.handlers) == 1 and isinstance(handler := _log.handlers[0], LineHandler) and not _log.propagate:
        handler.add(line)
    else:
        _log.info("%s", line.decode())


def flush_access_log() -> None:
    """Flush the handlers of the logger."""
    for handler in _log.handlers:
        handler.flush()


def _encode(line: AccessLine) -> bytes:
    try:
        encoded = msgspec.json.encode(line)
    except (TypeError, ValueError, OverflowError):
        named = {name: _text(getattr(line, name)) for name in ("principal", "model", "target", "upstream_request_id")}
        encoded = msgspec.json.encode(msgspec.structs.replace(line, **named))
    if encoded.isascii() and _DELETE not in encoded:  # JSON escapes all other control characters
        return encoded
    return printable(encoded.decode()).encode()


def _text(value: object) -> str | None:
    """A text that can be encoded: surrogates are escaped, and what is no text is replaced by the name of its type."""
    if value is None or isinstance(value, str):
        return value and value.encode("utf-8", "backslashreplace").decode()
    return f"<{type(value).__name__}>"


def _server_tool_use(tools: ServerToolUse) -> dict[str, int] | None:
    known = (("web_search_requests", tools.web_search_requests), ("web_fetch_requests", tools.web_fetch_requests))
    return {name: count for name, count in (*known, *tools.other.items()) if count} or None

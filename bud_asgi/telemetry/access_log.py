"""The access log: one line of JSON for each request, without content or credentials."""

from __future__ import annotations

import logging

import msgspec

from bud_asgi.exchange import Exchange, Outcome
from bud_asgi.printable import printable
from bud_asgi.protocol.usage import Iteration, Usage

_MAX_ITERATIONS = 10

_log = logging.getLogger("bud_asgi.access")


class IterationLine(msgspec.Struct, frozen=True, omit_defaults=True):
    """The fields of a sampling within a request."""

    type: str | None = None
    model: str | None = None
    input_tokens: int | None = None
    output_tokens: int | None = None
    cache_creation_input_tokens: int | None = None
    cache_read_input_tokens: int | None = None


class AccessLine(msgspec.Struct, frozen=True, omit_defaults=True):
    """The fields of a line; unknown ones are left out, and details of usage that are 0.

    Both times count from the arrival of the request. Counts have the names of the Messages API.
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
    server_tool_use: dict[str, int] = {}
    iterations: list[IterationLine] = []
    service_tier: str | None = None
    inference_geo: str | None = None
    speed: str | None = None
    estimated: bool = False
    upstream_request_id: str | None = None
    guardrail: str | None = None


_NO_USAGE = Usage()


def access_line(exchange: Exchange) -> bytes:
    """Encode a finished exchange as one line of JSON. Never raises, whatever a host's backend or router put into it."""
    attempt = exchange.attempts[-1] if exchange.attempts else None
    ended = exchange.started if exchange.ended is None else exchange.ended
    usage = exchange.usage or _NO_USAGE
    cache, details = usage.cache_creation, usage.output_tokens_details
    return _encode(
        AccessLine(
            request_id=exchange.request_id,
            operation=exchange.operation,
            status=exchange.status,
            outcome=exchange.outcome,
            milliseconds=_milliseconds(exchange.started, ended),
            first_byte_milliseconds=exchange.committed and _milliseconds(exchange.started, exchange.committed),
            principal=exchange.principal.id if exchange.principal else None,
            model=exchange.route.model if exchange.route else None,
            target=f"{attempt.target.provider}/{attempt.target.model or ''}".rstrip("/") if attempt else None,
            attempts=len(exchange.attempts),
            input_tokens=usage.input_tokens,
            output_tokens=usage.output_tokens,
            cache_creation_input_tokens=usage.cache_creation_input_tokens or None,
            cache_read_input_tokens=usage.cache_read_input_tokens or None,
            ephemeral_5m_input_tokens=(cache and cache.ephemeral_5m_input_tokens) or None,
            ephemeral_1h_input_tokens=(cache and cache.ephemeral_1h_input_tokens) or None,
            thinking_tokens=(details and details.thinking_tokens) or None,
            server_tool_use=_server_tool_use(usage),
            iterations=[_iteration(one) for one in (usage.iterations or ())[:_MAX_ITERATIONS]],
            service_tier=usage.service_tier,
            inference_geo=usage.inference_geo,
            speed=usage.speed,
            estimated=usage.estimated,
            upstream_request_id=attempt.upstream_request_id if attempt else None,
            guardrail=attempt.guardrail if attempt else None,
        )
    )


def log_access(exchange: Exchange) -> None:
    """Write the line to the logger `bud_asgi.access`, at level INFO."""
    if _log.isEnabledFor(logging.INFO):
        _log.info("%s", access_line(exchange).decode())


def _encode(line: AccessLine) -> bytes:
    try:
        encoded = msgspec.json.encode(line)
    except (TypeError, ValueError, OverflowError):
        named = {name: _text(getattr(line, name)) for name in ("principal", "model", "target", "upstream_request_id")}
        encoded = msgspec.json.encode(msgspec.structs.replace(line, **named))
    return printable(encoded.decode()).encode()


def _text(value: object) -> str | None:
    """A text that can be encoded: surrogates are escaped, and what is no text is replaced by the name of its type."""
    if value is None or isinstance(value, str):
        return value and value.encode("utf-8", "backslashreplace").decode()
    return f"<{type(value).__name__}>"


def _server_tool_use(usage: Usage) -> dict[str, int]:
    tools = usage.server_tool_use
    if tools is None:
        return {}
    known = (("web_search_requests", tools.web_search_requests), ("web_fetch_requests", tools.web_fetch_requests))
    return {name: count for name, count in (*known, *tools.other.items()) if count}


def _iteration(iteration: Iteration) -> IterationLine:
    return IterationLine(*msgspec.structs.astuple(iteration))


def _milliseconds(since: float, until: float) -> float:
    return round((until - since) * 1000, 2)

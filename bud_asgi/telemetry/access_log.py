"""The access log: one line of JSON for each request, without content or credentials."""

from __future__ import annotations

import logging

import msgspec

from bud_asgi.exchange import Exchange, Outcome

_log = logging.getLogger("bud_asgi.access")


class AccessLine(msgspec.Struct, frozen=True, omit_defaults=True):
    """The fields of a line; unknown ones are left out. Both times count from the arrival of the request."""

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
    upstream_request_id: str | None = None


def access_line(exchange: Exchange) -> bytes:
    """Encode a finished exchange as one line of JSON."""
    attempt = exchange.attempts[-1] if exchange.attempts else None
    ended = exchange.started if exchange.ended is None else exchange.ended
    return msgspec.json.encode(
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
            input_tokens=exchange.usage.input_tokens if exchange.usage else None,
            output_tokens=exchange.usage.output_tokens if exchange.usage else None,
            upstream_request_id=attempt.upstream_request_id if attempt else None,
        )
    )


def log_access(exchange: Exchange) -> None:
    """Write the line to the logger `bud_asgi.access`, at level INFO. One that cannot be encoded is reported instead."""
    if not _log.isEnabledFor(logging.INFO):
        return
    try:
        line = access_line(exchange).decode()
    except (TypeError, ValueError) as error:  # a router of the host's may use any object as a name
        _log.error("%s: the access line cannot be encoded: %s", exchange.request_id, error)
        return
    _log.info("%s", line)


def _milliseconds(since: float, until: float) -> float:
    return round((until - since) * 1000, 2)

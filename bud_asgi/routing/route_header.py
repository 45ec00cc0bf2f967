"""The `bud-route` header of a response: where the request went, and why."""

from __future__ import annotations

import time
from functools import partial

from bud_asgi.attempt import Attempt, Target
from bud_asgi.exchange import Exchange
from bud_asgi.routing.table import TableRoute


def explain_route(exchange: Exchange, *, read_at: float, home: Target | None) -> None:
    """Add the header to the response of this exchange, with the attempts that it will have had by then.

    `read_at` is when the request had been read, on the monotonic clock. `home` is the target of its conversation.
    """
    exchange.explain = partial(_route_header, read_at=read_at, home=home)


def _route_header(exchange: Exchange, *, read_at: float, home: Target | None) -> bytes:
    """The value: a dictionary of structured fields (RFC 9651)."""
    route, attempts = exchange.route, exchange.attempts
    parts = (
        [] if route is None else [f"route={_string(route.pattern if isinstance(route, TableRoute) else route.model)}"]
    )
    parts.append(f"attempts=({' '.join(map(_attempt, attempts))})")
    if home is not None and attempts:
        parts.append(f"affinity={'home' if attempts[-1].target == home else 'moved'}")
    begun_at = attempts[-1].started if attempts else time.monotonic()
    parts.append(f"added={_milliseconds(begun_at - read_at)}")
    return ", ".join(parts).encode("ascii")


def _attempt(attempt: Attempt) -> str:
    """An attempt as an item: its provider, how it ended and with which status, and how long it has taken until then."""
    until = attempt.ended or attempt.first_event or attempt.head or time.monotonic()
    parts = [_string(attempt.target.provider)]
    if attempt.target.model is not None:
        parts.append(f"model={_string(attempt.target.model)}")
    if attempt.end is not None:
        parts.append(f"end={attempt.end}")
    if attempt.status is not None:
        parts.append(f"status={attempt.status}")
    return ";".join([*parts, f"ms={_milliseconds(until - attempt.started)}"])


def _milliseconds(seconds: float) -> str:
    return f"{max(seconds, 0.0) * 1000:.1f}"


def _string(text: str) -> str:
    """A string of structured fields, which is ASCII; other characters become question marks."""
    printable = "".join(char if " " <= char <= "~" else "?" for char in text)
    return '"' + printable.replace("\\", "\\\\").replace('"', '\\"') + '"'

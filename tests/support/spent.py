"""What requests should have booked, computed from their records without the code under test."""

from __future__ import annotations

from collections.abc import Iterable

from bud_asgi import Exchange
from support.limited import Booked


def spent(exchanges: Iterable[Exchange], *, max_tokens: int) -> Booked:
    """The sum over requests whose models are seen for the first time: output that is not known is `max_tokens`."""
    requests, taken, given = 0, 0, 0
    for exchange in exchanges:
        requests += bool(exchange.attempts)
        usage = exchange.usage
        if usage is not None:
            taken += usage.input_tokens or 0
            given += max_tokens if usage.output_tokens is None else usage.output_tokens
    return Booked(requests, taken, given, taken + given)

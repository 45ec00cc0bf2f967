"""The callback for finished requests."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from bud_asgi.exchange import Exchange
from bud_asgi.observer import Observer

OnSettled = Callable[[Exchange], Awaitable[None]]


class SettledCallback(Observer):
    """Awaits a function with each finished `Exchange`, in the background."""

    def __init__(self, on_settled: OnSettled) -> None:
        self._on_settled = on_settled

    def settled(self, exchange: Exchange) -> None:
        """Start the call. It is dropped while too many are running."""
        if exchange.tasks is not None:
            exchange.tasks.spawn_callback(lambda: self._call(exchange))

    async def _call(self, exchange: Exchange) -> None:
        await self._on_settled(exchange)

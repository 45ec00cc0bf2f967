"""The middleware that admits a request: reserves what it may use, and settles it on every path out."""

from __future__ import annotations

from collections.abc import Sequence
from operator import attrgetter

from starlette.types import ASGIApp, Receive, Scope, Send

from bud_asgi.exchange import Exchange
from bud_asgi.limits.limit import Limit, demands_of
from bud_asgi.limits.memory import MemoryStore
from bud_asgi.limits.store import LimitStore, limit_headers
from bud_asgi.protocol.errors import GatewayError
from bud_asgi.protocol.operations import MODELS_API

_REMAINING = attrgetter("remaining")


class RateLimitMiddleware:
    """Lets a request pass that all `limits` have room for, else answers 429 with a true `retry-after`.

    Counts in this process's memory unless another `store` is given. What was reserved is settled when the request
    ends, at once or in a task of its own: cancellation can't skip it.
    """

    def __init__(self, app: ASGIApp, *, limits: Sequence[Limit], store: LimitStore | None = None) -> None:
        self.app = app
        self.limits = tuple(limits)
        self.store: LimitStore = store or MemoryStore()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Reserve, call the app behind, settle."""
        if scope["type"] != "http" or not self.limits:
            await self.app(scope, receive, send)
            return
        exchange = Exchange.of(scope)
        if exchange.operation in MODELS_API:
            await self.app(scope, receive, send)
            return
        demands = demands_of(self.limits, exchange)
        try:
            granted = await self.store.reserve(demands)
        except GatewayError as error:
            await exchange.refuse(error, send)
            return
        exchange.reservation = granted.reservation
        if granted.standings:
            exchange.reply_headers += limit_headers(min(granted.standings, key=_REMAINING))
        try:
            await self.app(scope, receive, send)
        finally:
            amounts = [demand.amount for demand in demands]
            exchange.tasks.begin(lambda: self.store.settle(granted.reservation, amounts))

"""The admitting stage as a middleware, for custom stacks and for other apps."""

from __future__ import annotations

from collections.abc import Sequence

from starlette.types import ASGIApp, Receive, Scope, Send

from bud_asgi.exchange import Exchange
from bud_asgi.host_code import check_app
from bud_asgi.limits.limit import Limit
from bud_asgi.limits.stage import Limiter
from bud_asgi.limits.store import LimitStore
from bud_asgi.protocol.errors import GatewayError
from bud_asgi.response import Response
from bud_asgi.tasks import BackgroundTasks


class RateLimitMiddleware:
    """Passes a request on that all `limits` have room for; answers others with 429 and a true `retry-after`.

    Counts in this process's memory unless another `store` is given. What was reserved is settled when the request
    ends: at once, or in a background task that cancellation can't skip. Raises `OptionError`.
    """

    def __init__(self, app: ASGIApp, *, limits: Sequence[Limit], store: LimitStore | None = None) -> None:
        check_app(app)
        self.app = app
        self.limiter = Limiter(limits, store)
        self._tasks = BackgroundTasks()  # in front of an app that is not ours

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Reserve, call the app behind, settle."""
        if scope["type"] != "http" or not self.limiter.limits:
            await self.app(scope, receive, send)
            return
        exchange = Exchange.of(scope)
        if exchange.tasks is None:
            exchange.tasks = self._tasks
        try:
            reservation = await self.limiter.admit(exchange)
        except GatewayError as error:
            await Response(exchange, send, receive=receive).fail(error)
            return
        try:
            await self.app(scope, receive, send)
        finally:
            self.limiter.settle(reservation, exchange.tasks)

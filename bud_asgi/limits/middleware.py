"""The admitting stage as a middleware, for custom stacks and for other apps."""

from __future__ import annotations

from collections.abc import Sequence

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from bud_asgi.exchange import Exchange
from bud_asgi.host_code import check_app
from bud_asgi.limit import Limit
from bud_asgi.limits.amounts import CostFunction
from bud_asgi.limits.stage import Admission, Limiter
from bud_asgi.limits.store import LimitStore
from bud_asgi.protocol.errors import GatewayError
from bud_asgi.protocol.operations import MODELS_API
from bud_asgi.response import Response
from bud_asgi.tasks import BackgroundTasks


class RateLimitMiddleware:
    """Passes on requests that all `limits` have room for; answers others with 429 and an accurate `retry-after`.

    Counts in this process's memory unless another `store` is given. What was reserved is settled when the request
    ends: at once, or in a background task that cancellation does not skip.

    For another app, `cost` and `used` are functions of the `Exchange` that return amounts by kind, such as
    `{"tokens": 500}`. `cost` is called before a request is passed on, `used` after its response has been sent, when the
    `Exchange` has the `status`, and a `usage` if the app has set one. A kind that is missing in `cost` takes 1 request
    or no tokens; one that is missing in `used` stays as it was reserved. Raises `OptionError`.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        limits: Sequence[Limit],
        store: LimitStore | None = None,
        cost: CostFunction | None = None,
        used: CostFunction | None = None,
    ) -> None:
        check_app(app)
        self.app = app
        self.limiter = Limiter(limits, store, cost=cost, used=used)
        self._tasks = BackgroundTasks()  # in front of another app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Reserve, call the app behind, settle."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        exchange = Exchange.of(scope)
        is_foreign = exchange.tasks is None
        if exchange.tasks is None:
            exchange.tasks = self._tasks
        try:
            admission = await self._admit(exchange, receive)
        except GatewayError as error:
            await Response(exchange, send, receive=receive).fail(error)
            return
        if exchange.read_request is not None:
            receive = exchange.replay_body(receive)
        try:
            await self.app(scope, receive, _completing(exchange, send) if is_foreign else send)
        finally:
            self.limiter.settle(admission, exchange, exchange.tasks)

    async def _admit(self, exchange: Exchange, receive: Receive) -> Admission:
        limiter = self.limiter
        plan = limiter.check(exchange)
        has_body = exchange.operation is not None and exchange.operation not in MODELS_API
        if has_body and not plan.is_complete and limiter.cost is None:
            await exchange.request(receive)
        return limiter.admit_now(exchange, plan) or await limiter.admit(exchange)


def _completing(exchange: Exchange, send: Send) -> Send:
    """Note the status of an app's response, and add the headers of the caller's limits."""

    async def send_on(message: Message) -> None:
        if message["type"] == "http.response.start" and exchange.status is None:  # our own app notes and adds them
            exchange.status = message["status"]
            message = {**message, "headers": [*message.get("headers", ()), *exchange.reply_headers]}
        await send(message)

    return send_on

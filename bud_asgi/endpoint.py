"""The last stage: asks the targets of a route in order, relays the answer, and keeps the account of it."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from starlette.types import Receive, Scope, Send

from bud_asgi.clock import Clock
from bud_asgi.exchange import Attempt, Exchange, ModelNotAllowed, Offer, Outcome, Principal, Target
from bud_asgi.http import HttpClient, HttpReply
from bud_asgi.models.answer import answer_models
from bud_asgi.models.upstream_lists import UpstreamModelLists
from bud_asgi.protocol.errors import ClientGone, GatewayError, NotFound, ShuttingDown
from bud_asgi.protocol.operations import MODELS_API
from bud_asgi.protocol.request import MessagesRequest
from bud_asgi.providers import (
    Provider,
    ProviderRequest,
    TranslatedUpstreamError,
    UpstreamErrorResponse,
    UpstreamUnavailable,
    judge_refusal,
)
from bud_asgi.providers import send as send_upstream
from bud_asgi.relay import deliver_refusal, end_early, relay
from bud_asgi.waiting import Waiting
from bud_asgi.watch import ClientWatch

_log = logging.getLogger("bud_asgi")


class Unauthenticated(GatewayError):
    """A request reached the endpoint that nobody has authenticated."""

    status = 401
    type = "authentication_error"
    retryable = False


class Resources(Protocol):
    """What the endpoint needs of the running loop."""

    @property
    def client(self) -> HttpClient:
        """The engine."""
        ...

    @property
    def clock(self) -> Clock:
        """The clock that all requests share."""
        ...

    @property
    def listings(self) -> UpstreamModelLists:
        """The upstreams' own lists of models."""
        ...


class Endpoint:
    """The Messages API and the Models API as a raw ASGI app: all that came before it is in the `Exchange`.

    `resources` gives those of the running loop. Without a route in the exchange and with one provider, the model is
    asked for there as the client wrote it. Raises nothing but cancellation and programming errors.
    """

    def __init__(self, providers: Sequence[Provider], resources: Callable[[], Resources]) -> None:
        self._providers: Mapping[str, Provider] = {provider.name: provider for provider in providers}
        self._resources = resources
        self._only = Target(providers[0].name) if len(providers) == 1 else None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        exchange = Exchange.of(scope)
        try:
            principal = _require_principal(exchange, scope)
            if exchange.operation in MODELS_API:
                listings = self._resources().listings
                await answer_models(exchange, principal, self._offers(exchange), self._providers, listings, scope, send)
                return
            targets = self._targets(exchange, principal, await exchange.request(receive))
            with ClientWatch(receive, self._resources().clock) as watch:
                exchange.end = watch.end
                await self._answer(exchange, targets, send)
        except GatewayError as error:
            if exchange.committed is None:
                await exchange.refuse(error, send)
            else:
                exchange.outcome = exchange.outcome or _outcome_of(error)
                await end_early(exchange, send, error)
        finally:
            exchange.end = None

    def _offers(self, exchange: Exchange) -> Sequence[Offer]:
        if exchange.offers is not None:
            return exchange.offers
        return () if self._only is None else (Offer("*", (self._only,)),)

    def _targets(self, exchange: Exchange, principal: Principal, request: MessagesRequest) -> Sequence[Target]:
        """Where to ask. What the principal may use is looked at here too, whatever router stood before, and when."""
        model = exchange.route.model if exchange.route else request.model
        if not principal.may_use(model):
            raise ModelNotAllowed(model)
        if exchange.route is not None:
            return exchange.route.choose(exchange)
        if self._only is None:
            raise NotFound(f"model: {request.model}")
        return (self._only,)

    async def _answer(self, exchange: Exchange, targets: Sequence[Target], send: Send) -> None:
        """Ask one target after the other, as long as nothing can have been begun at the one before, nor here."""
        waiting = Waiting(exchange, send, self._resources().clock) if exchange.judged.stream else None
        try:
            for target in targets[:-1]:
                try:
                    await self._attempt(exchange, target, waiting, send)
                except UpstreamUnavailable as error:
                    if not error.elsewhere or exchange.committed is not None:
                        raise
                else:
                    return
            await self._attempt(exchange, targets[-1], waiting, send)
        except asyncio.CancelledError:
            if waiting is not None:
                waiting.give_up()
            await end_early(exchange, send, ShuttingDown())
            raise
        finally:
            if waiting is not None:
                await waiting.over()

    async def _attempt(self, exchange: Exchange, target: Target, waiting: Waiting | None, send: Send) -> None:
        provider = self._providers[target.provider]
        attempt = Attempt(target)
        exchange.attempts.append(attempt)
        exchange.outcome = None  # that of the attempt before is in the account of that
        reply: HttpReply | None = None
        try:
            # The call stands in no variable here: the request's body is not kept while a stream is relayed.
            answer = await send_upstream(self._resources().client, provider, _call(exchange, target), attempt)
            refusal = answer if isinstance(answer, UpstreamErrorResponse) else None
            reply = None if isinstance(answer, UpstreamErrorResponse) else answer
            if waiting is not None:
                await waiting.over()
            if reply is not None:
                refusal = await relay(exchange, attempt, reply, send, stream=waiting is not None)
                if refusal is not None:
                    judge_refusal(provider, exchange.request_id, refusal)
            if refusal is not None:
                await deliver_refusal(exchange, refusal, send)
        except (UpstreamUnavailable, TranslatedUpstreamError) as error:
            attempt.failure = (
                error.told if isinstance(error, TranslatedUpstreamError) else str(error.__cause__ or error)
            )
            told = isinstance(error, TranslatedUpstreamError) and not error.credential
            exchange.outcome = "answered" if told else "upstream_failed"
            _log.warning("%s: %s failed: %s", exchange.request_id, provider.name, attempt.failure)
            raise
        finally:
            attempt.ended = time.monotonic()
            if reply is not None:
                reply.close()


def _call(exchange: Exchange, target: Target) -> ProviderRequest:
    return ProviderRequest(exchange.judged, exchange.headers, target.model, exchange.request_id)


def _require_principal(exchange: Exchange, scope: Scope) -> Principal:
    """Whoever stands before the endpoint: a request that no `Principal` came with is not served."""
    if exchange.principal is None and isinstance(user := scope.get("user"), Principal):
        exchange.principal = user
    if exchange.principal is None:
        raise Unauthenticated("x-api-key header is required")
    return exchange.principal


def _outcome_of(error: GatewayError) -> Outcome:
    return "client_gone" if isinstance(error, ClientGone) else "cancelled"

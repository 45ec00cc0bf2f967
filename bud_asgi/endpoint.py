"""The last stage: asks the targets of a route in order, relays the answer, and keeps the account of it."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence

from starlette.types import Receive, Scope, Send

from bud_asgi.exchange import Attempt, Exchange, ModelNotAllowed, Principal, Target
from bud_asgi.http import HttpClient, HttpReply
from bud_asgi.protocol.errors import ClientGone, GatewayError, NotFound, read_error
from bud_asgi.protocol.headers import header_of
from bud_asgi.protocol.messages import MessagesRequest
from bud_asgi.providers import Provider, UpstreamFailed
from bud_asgi.providers import send as send_upstream
from bud_asgi.relay import Refusal, deliver_refusal, relay
from bud_asgi.watch import ClientWatch

_log = logging.getLogger("bud_asgi")


class Unauthenticated(GatewayError):
    """A request reached the endpoint that nobody has authenticated."""

    status = 401
    type = "authentication_error"
    retryable = False


class Endpoint:
    """`POST /v1/messages` as a raw ASGI app: everything that came before it is in the `Exchange`.

    `client` gives the engine of the running loop. Without a route in the exchange and with one provider, the model is
    asked for there as the client wrote it. Raises nothing but cancellation and programming errors.
    """

    def __init__(self, providers: Sequence[Provider], client: Callable[[], HttpClient]) -> None:
        self._providers: Mapping[str, Provider] = {provider.name: provider for provider in providers}
        self._client = client
        self._only = Target(providers[0].name) if len(providers) == 1 else None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        exchange = Exchange.of(scope)
        try:
            principal = _require_principal(exchange, scope)
            request = await exchange.request(receive)
            targets = self._targets(exchange, principal, request)
            with ClientWatch(receive) as watch:
                exchange.end = watch.end
                await self._answer(exchange, request, targets, send)
        except GatewayError as error:
            if exchange.committed is None:
                await exchange.refuse(error, send)
            elif exchange.outcome != "answered":
                exchange.outcome = "client_gone" if isinstance(error, ClientGone) else "cancelled"
        finally:
            exchange.end = None

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

    async def _answer(
        self, exchange: Exchange, request: MessagesRequest, targets: Sequence[Target], send: Send
    ) -> None:
        """Ask one target after the other, as long as nothing can have been begun at the one before."""
        for target in targets[:-1]:
            try:
                await self._attempt(exchange, request, target, send)
            except UpstreamFailed as error:
                if not error.elsewhere:
                    raise
            else:
                return
        await self._attempt(exchange, request, targets[-1], send)

    async def _attempt(self, exchange: Exchange, request: MessagesRequest, target: Target, send: Send) -> None:
        provider = self._providers[target.provider]
        attempt = Attempt(target)
        exchange.attempts.append(attempt)
        reply: HttpReply | None = None
        try:
            reply = await send_upstream(self._client(), provider, request, exchange.headers, target.model)
            _note_head(attempt, reply)
            refusal = await relay(exchange, attempt, reply, send, stream=request.stream)
            if refusal is not None:
                _judge_refusal(exchange, provider, refusal)
                await deliver_refusal(exchange, reply, refusal, send)
        except UpstreamFailed as error:
            attempt.failure = str(error.__cause__ or error)
            exchange.outcome = "upstream_failed"
            _log.warning("%s: %s failed: %s", exchange.request_id, provider.name, attempt.failure)
            raise
        finally:
            attempt.ended = time.monotonic()
            if reply is not None:
                reply.close()


def _require_principal(exchange: Exchange, scope: Scope) -> Principal:
    """Whoever stands before the endpoint: a request that no `Principal` came with is not served."""
    if exchange.principal is None and isinstance(user := scope.get("user"), Principal):
        exchange.principal = user
    if exchange.principal is None:
        raise Unauthenticated("x-api-key header is required")
    return exchange.principal


def _note_head(attempt: Attempt, reply: HttpReply) -> None:
    attempt.head = time.monotonic()
    attempt.status = reply.status
    attempt.upstream_request_id = header_of(reply.headers, b"request-id").decode("latin-1") or None


def _judge_refusal(exchange: Exchange, provider: Provider, refusal: Refusal) -> None:
    """Keep to ourselves what the upstream says of the gateway's own credential: the client can't mend that.

    Some servers put the credential itself into what they say, with whatever status.
    """
    said = read_error(refusal.body)
    text = refusal.body.decode("utf-8", "replace")
    redacted = provider.credential.redact(text)
    ours = refusal.status == 401 or (refusal.status == 403 and said is not None and not said.has_code)
    if ours or redacted != text:
        _log.error("%s: %s refused our credential: %.500r", exchange.request_id, provider.name, redacted)
        raise UpstreamFailed("upstream authentication failed")

"""The targets of a request, in order: send, relay, classify how each attempt ended, and decide whether to go on."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Mapping, Sequence

from bud_asgi.clock import Timing
from bud_asgi.disconnect import ActiveRequest
from bud_asgi.exchange import Attempt, AttemptEnd, Exchange, Target
from bud_asgi.http import HttpClient, HttpReply
from bud_asgi.protocol.errors import ClientGone, GatewayError
from bud_asgi.providers import (
    Provider,
    ProviderRequest,
    TranslatedUpstreamError,
    UpstreamErrorResponse,
    UpstreamUnavailable,
    hide_credential_error,
    send,
)
from bud_asgi.relay import relay_json, relay_stream
from bud_asgi.response import State

TRY_NEXT: Mapping[AttemptEnd, bool] = {
    "answered": False,
    "unsupported": False,
    "not_sent": True,
    "refused": False,
    "translated": False,
    "overloaded": False,
    "unknown": False,
    "broken": False,
    "client_gone": False,
    "cancelled": False,
}
"""Whether the next target is tried after an attempt that ended so: only where nothing can have been begun."""

_log = logging.getLogger("bud_asgi")


async def run_attempts(
    request: ActiveRequest,
    targets: Sequence[Target],
    providers: Mapping[str, Provider],
    client: HttpClient,
    timing: Timing,
) -> None:
    """Try the targets in order until one has answered, and deliver its reply.

    Raises the `GatewayError` of the last attempt. Cancelled, the upstream call is aborted at once.
    """
    exchange, response = request.exchange, request.response
    streaming = exchange.decoded_request.stream
    if streaming:
        response.enable_pings()
    for number, target in enumerate(targets, 1):
        provider = providers[target.provider]
        attempt = Attempt(target)
        exchange.attempts.append(attempt)
        reply: HttpReply | None = None
        try:
            # The encoded request is not kept in a variable: an open stream would retain the body.
            reply = await send(client, provider, _provider_request(exchange, target), attempt)
            if streaming:
                await relay_stream(exchange, attempt, reply, response, timing)
            else:
                await relay_json(exchange, attempt, reply, response)
        except GatewayError as error:
            attempt.end = classify(error, has_content=response.has_content)
            _note_failure(exchange, provider, attempt, error)
            if number == len(targets) or not TRY_NEXT[attempt.end]:
                if attempt.end == "overloaded":
                    raise hide_credential_error(provider, exchange.request_id, error) from None
                raise
        except asyncio.CancelledError:
            attempt.end = "client_gone" if isinstance(request.aborted_by, ClientGone) else "cancelled"
            raise
        else:
            attempt.end = "answered"
            return
        finally:
            attempt.ended = time.monotonic()
            if reply is not None:
                reply.close()
        if response.state is State.HELD:
            response.release()


def classify(error: GatewayError, *, has_content: bool) -> AttemptEnd:
    """How an attempt ended, from its error and from whether a part of its reply has been delivered."""
    if isinstance(error, UpstreamErrorResponse):
        return "overloaded" if error.event else "refused"
    if isinstance(error, TranslatedUpstreamError):
        return "translated"
    if isinstance(error, UpstreamUnavailable):
        if has_content:
            return "broken"
        return "not_sent" if error.not_sent else "unknown"
    return "unsupported"


def _note_failure(exchange: Exchange, provider: Provider, attempt: Attempt, error: GatewayError) -> None:
    """Record and log why an attempt failed."""
    if isinstance(error, TranslatedUpstreamError):
        attempt.failure = error.upstream_message
    elif isinstance(error, UpstreamUnavailable):
        attempt.failure = str(error.__cause__ or error)
    if attempt.failure is not None:
        _log.warning("%s: %s failed: %s", exchange.request_id, provider.name, attempt.failure)


def _provider_request(exchange: Exchange, target: Target) -> ProviderRequest:
    """The request for a provider, without the header that proved the caller to us: that credential stays here."""
    headers = exchange.headers
    if exchange.credential_header is not None:
        headers = {name: value for name, value in headers.items() if name != exchange.credential_header}
    return ProviderRequest(exchange.decoded_request, headers, target.model, exchange.request_id)

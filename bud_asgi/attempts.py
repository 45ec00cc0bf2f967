"""The targets of a request, in order: send, relay, classify how each attempt ended, and decide whether to go on."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Mapping, Sequence

from bud_asgi.clock import Timing
from bud_asgi.disconnect import ActiveRequest
from bud_asgi.exchange import Attempt, AttemptEnd, Exchange, Target
from bud_asgi.field_policy import without_fields
from bud_asgi.http import HttpClient, HttpReply
from bud_asgi.protocol.errors import ClientGone, GatewayError
from bud_asgi.protocol.estimate import estimated_input
from bud_asgi.protocol.sse import EventStream
from bud_asgi.providers import (
    Provider,
    ProviderRequest,
    TranslatedUpstreamError,
    UpstreamErrorResponse,
    UpstreamUnavailable,
    hide_credential_error,
    send,
    shown_in_log,
)
from bud_asgi.relay import open_stream, relay_events, relay_json, usage_of_stream

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
    dropped_fields: Mapping[str, frozenset[str]],
    client: HttpClient,
    timing: Timing,
) -> None:
    """Try the targets in order until one has answered, and deliver its reply.

    `dropped_fields` are the account fields that are left out of requests, by provider.
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
        stream = EventStream() if streaming else None
        reply: HttpReply | None = None
        try:
            # The encoded request is not kept in a variable: an open stream would retain the body.
            call = (exchange, attempt, dropped_fields[target.provider])
            reply, fields = await send(client, provider, _provider_request(*call), attempt)
            if stream is None:
                await relay_json(exchange, attempt, reply, fields, response)
            else:
                await open_stream(stream, attempt, reply, fields, response, timing.commit_after)
                exchange.release_body()
                del fields  # an open stream retains nothing that it no longer needs
                redact = provider.credential.redact
                await relay_events(stream, reply, response, timing.linger, redact, exchange.request_id)
                exchange.usage = usage_of_stream(stream, attempt) or exchange.usage
        except BaseException as error:  # noqa: BLE001 - it is raised again, or recorded in the attempt
            _note_failure(request, provider, attempt, stream, error)
            if attempt.end is None or not TRY_NEXT[attempt.end] or number == len(targets):
                raise _shown(exchange, provider, attempt, error) from error.__cause__
            response.release()
        else:
            attempt.end = "answered"
            return
        finally:
            _finish(exchange, attempt, reply)


def _finish(exchange: Exchange, attempt: Attempt, reply: HttpReply | None) -> None:
    attempt.ended = time.monotonic()
    if reply is not None:
        reply.close()
    if attempt.intervened:
        name, verdict = attempt.target.provider, attempt.guardrail
        _log.warning("%s: a guardrail at %s intervened: %r", exchange.request_id, name, verdict)


def _note_failure(
    request: ActiveRequest, provider: Provider, attempt: Attempt, stream: EventStream | None, error: BaseException
) -> None:
    """Record how an attempt ended, and what its stream has cost until then."""
    exchange, response = request.exchange, request.response
    if stream is not None:
        exchange.usage = usage_of_stream(stream, attempt) or exchange.usage
    if isinstance(error, asyncio.CancelledError):
        attempt.end = "client_gone" if isinstance(request.aborted_by, ClientGone) else "cancelled"
    elif isinstance(error, OSError):  # the server's report of a disconnect
        attempt.end = "client_gone"
    elif isinstance(error, GatewayError):
        attempt.end = classify(error, has_content=response.has_content)
        attempt.sent = attempt.sent and attempt.end != "not_sent"
        _log_failure(exchange, provider, attempt, error)
    elif isinstance(error, Exception):  # of the host's own HTTP client, or a fault of ours
        attempt.end = "broken" if response.has_content else "unknown" if attempt.sent else "unsupported"
    body = exchange.decoded_request.body
    if attempt.possibly_billed and exchange.usage is None and not exchange.counting and body:
        exchange.usage = estimated_input(body)


def _shown(exchange: Exchange, provider: Provider, attempt: Attempt, error: BaseException) -> BaseException:
    """The error as the client may see it: an `error` event about the gateway's credential is replaced."""
    if attempt.end != "overloaded" or not isinstance(error, GatewayError):
        return error
    hidden = hide_credential_error(provider, exchange.request_id, error)
    if hidden is not error:
        _log_failure(exchange, provider, attempt, hidden)
    return hidden


def _log_failure(exchange: Exchange, provider: Provider, attempt: Attempt, error: BaseException) -> None:
    if isinstance(error, TranslatedUpstreamError):
        attempt.failure = error.upstream_message
    elif isinstance(error, UpstreamUnavailable):
        attempt.failure = shown_in_log(provider.credential, exchange.headers, str(error.__cause__ or error))
    if attempt.failure is not None:
        _log.warning("%s: %s failed: %s", exchange.request_id, provider.name, attempt.failure)


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


def _provider_request(exchange: Exchange, attempt: Attempt, dropped: frozenset[str]) -> ProviderRequest:
    """The request for a provider, without the dropped account fields, which are noted in the attempt.

    The headers that proved the caller to us are left out: these credentials stay here.
    """
    request, headers = exchange.decoded_request, exchange.headers
    if exchange.account_fields:
        request, headers, attempt.dropped = without_fields(request, headers, exchange.account_fields, dropped)
    if exchange.credential_headers:
        headers = dict(headers)
        for name in exchange.credential_headers:
            headers.pop(name, None)
    return ProviderRequest(
        request, headers, attempt.target.model, exchange.request_id, exchange.hops, attempt, exchange.header_names
    )

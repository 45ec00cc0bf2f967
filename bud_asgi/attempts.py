"""The targets of a request, in order: send, relay, classify how each attempt ended, and decide whether to go on."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Self

from bud_asgi.clock import Timing
from bud_asgi.disconnect import ActiveRequest
from bud_asgi.exchange import Attempt, AttemptEnd, Exchange, Target
from bud_asgi.field_policy import without_fields
from bud_asgi.http import HttpClient, HttpReply
from bud_asgi.protocol.errors import ClientGone, GatewayError
from bud_asgi.protocol.estimate import estimated_input
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
from bud_asgi.relay import relay_json, relay_stream

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
        with _AttemptScope(request, provider, target, is_last=number == len(targets)) as current:
            # The encoded request is not kept in a variable: an open stream would retain the body.
            dropped = dropped_fields[target.provider]
            reply = current.reply = await send(
                client, provider, _provider_request(exchange, current.attempt, dropped), current.attempt
            )
            if streaming:
                await relay_stream(exchange, current.attempt, reply, response, timing, provider.credential.redact)
            else:
                await relay_json(exchange, current.attempt, reply, response)
            return


class _AttemptScope:
    """One attempt: its end is classified and recorded, its reply closed, its error dropped if a target follows."""

    def __init__(self, request: ActiveRequest, provider: Provider, target: Target, *, is_last: bool) -> None:
        self.attempt = Attempt(target)
        self.reply: HttpReply | None = None
        self._request = request
        self._provider = provider
        self._is_last = is_last

    def __enter__(self) -> Self:
        self._request.exchange.attempts.append(self.attempt)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        attempt, response = self.attempt, self._request.response
        attempt.ended = time.monotonic()
        if self.reply is not None:
            self.reply.close()
        if attempt.intervened:
            request_id = self._request.exchange.request_id
            _log.warning("%s: a guardrail at %s intervened: %r", request_id, self._provider.name, attempt.guardrail)
        if error is None:
            attempt.end = "answered"
        elif isinstance(error, asyncio.CancelledError):
            attempt.end = "client_gone" if isinstance(self._request.aborted_by, ClientGone) else "cancelled"
            self._estimate_usage()
        elif isinstance(error, OSError):  # the server's report of a disconnect
            attempt.end = "client_gone"
            self._estimate_usage()
        elif isinstance(error, GatewayError):
            attempt.end = classify(error, has_content=response.has_content)
            attempt.sent = attempt.sent and attempt.end != "not_sent"
            self._estimate_usage()
            shown: GatewayError = error
            if attempt.end == "overloaded":
                shown = hide_credential_error(self._provider, self._request.exchange.request_id, error)
            self._note_failure(shown)
            if TRY_NEXT[attempt.end] and not self._is_last:
                response.release()
                return True
            if shown is not error:
                raise shown from None
        elif isinstance(error, Exception):  # of the host's own HTTP client, or a fault of ours
            attempt.end = "broken" if response.has_content else "unknown" if attempt.sent else "unsupported"
            self._estimate_usage()
        return False

    def _estimate_usage(self) -> None:
        """Estimate what a request has cost that was sent and whose reply has reported nothing."""
        exchange = self._request.exchange
        body = exchange.decoded_request.body
        if self.attempt.possibly_billed and exchange.usage is None and not exchange.counting and body:
            exchange.usage = estimated_input(body)

    def _note_failure(self, error: GatewayError) -> None:
        """Record and log why the attempt failed."""
        exchange = self._request.exchange
        if isinstance(error, TranslatedUpstreamError):
            self.attempt.failure = error.upstream_message
        elif isinstance(error, UpstreamUnavailable):
            text = str(error.__cause__ or error)
            self.attempt.failure = shown_in_log(self._provider.credential, exchange.headers, text)
        if self.attempt.failure is not None:
            _log.warning("%s: %s failed: %s", exchange.request_id, self._provider.name, self.attempt.failure)


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

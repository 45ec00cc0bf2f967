"""The targets of a request, in order: send, relay, classify how each attempt ended, and decide whether to go on."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Mapping, Sequence
from typing import NoReturn

import msgspec

from bud_asgi.clock import Timing
from bud_asgi.disconnect import ActiveRequest
from bud_asgi.exchange import Attempt, Exchange, Target
from bud_asgi.failover import (
    MAX_ATTEMPTS,
    Failure,
    RetryBudget,
    classify,
    error_to_show,
    may_try_next,
    verdict_on,
)
from bud_asgi.field_policy import without_fields
from bud_asgi.http import HttpClient, HttpReply
from bud_asgi.protocol.errors import ClientGone, GatewayError
from bud_asgi.protocol.estimate import estimated_input
from bud_asgi.protocol.headers import Headers
from bud_asgi.protocol.sse import EventStream, StreamState
from bud_asgi.providers import (
    Provider,
    ProviderRequest,
    TranslatedUpstreamError,
    UpstreamErrorResponse,
    UpstreamUnavailable,
    for_principal,
    hide_credential_error,
    send,
    serves_all,
    shown_in_log,
)
from bud_asgi.relay import open_stream, relay_events, relay_json, usage_of_stream
from bud_asgi.routing import Call, Fleet, Health, Verdict

_log = logging.getLogger("bud_asgi")


class Upstreams(msgspec.Struct, frozen=True, eq=False):
    """What attempts are made with: providers by name, the account fields that each does not get, and the budget.

    `fleet` has the health of the targets.
    """

    providers: Mapping[str, Provider]
    dropped_fields: Mapping[str, frozenset[str]]
    fleet: Fleet
    budget: RetryBudget


class _TargetCall(msgspec.Struct, eq=False):
    """A call to a target, and what its end shows of the target's health.

    `shared`: the account there is the same for all callers. A limit or a refused credential of another one shows
    nothing of the target.
    """

    health: Health
    call: Call
    shared: bool = True
    verdict: Verdict = "ok"
    retry_after: float | None = None

    def note_limits(self, fields: Headers) -> None:
        """Note the upstream's own rate limits, from the head of a reply."""
        if self.shared:
            self.health.note_limits(time.monotonic(), fields, time.time)

    def end(self, attempt: Attempt) -> None:
        verdict = "failed" if attempt.end == "broken" else self.verdict
        if not self.shared and verdict in {"busy", "credential"}:
            verdict = "neutral"
        self.health.end(self.call, time.monotonic(), verdict, self.retry_after)


async def run_attempts(
    request: ActiveRequest, targets: Sequence[Target], upstreams: Upstreams, client: HttpClient, timing: Timing
) -> None:
    """Try the targets in order until one has answered, and deliver its reply.

    A failure before a reply is committed is followed by the next target where `may_try_next` allows it. Raises the most
    useful `GatewayError` of the attempts. Cancelled, the upstream call is aborted at once.
    """
    exchange, budget = request.exchange, upstreams.budget
    if exchange.decoded_request.stream:
        request.response.enable_pings()
    failures: list[Failure] = []
    last = min(len(targets), MAX_ATTEMPTS) - 1
    now = time.monotonic()
    deadline = now + timing.failover_within
    for number, target in enumerate(targets):
        health = upstreams.fleet.health(target)
        call = _TargetCall(health, health.begin(now), serves_all(upstreams.providers[target.provider]))
        budget.count(now)
        try:
            await _attempt(request, target, call, upstreams, client, timing, has_next=number < last)
        except GatewayError as error:
            failures.append(Failure(exchange.attempts[-1].end or "unsupported", _without_frames(error)))
            now = time.monotonic()
            if number == last or not may_try_next(failures, budget, now, deadline):
                _charge_one(exchange)
                _raise(error_to_show(failures), failures)
        else:
            return
        finally:
            call.end(exchange.attempts[-1])
        _set_aside(request)


def _without_frames(error: GatewayError) -> GatewayError:
    """Drop the tracebacks of an error and of its causes: they refer to frames that hold the body."""
    link: BaseException | None = error
    while link is not None and link.__traceback__ is not None:  # without one, it has been seen: chains may be circular
        link.__traceback__ = None
        link = link.__cause__ or link.__context__
    return error


def _raise(error: GatewayError, failures: list[Failure]) -> NoReturn:
    """Raise an error, and leave no reference to it in a frame of its own traceback: the cycle would keep the body."""
    failures.clear()
    try:
        raise error from error.__cause__
    finally:
        del error


async def _attempt(
    request: ActiveRequest,
    target: Target,
    call: _TargetCall,
    upstreams: Upstreams,
    client: HttpClient,
    timing: Timing,
    *,
    has_next: bool,
) -> None:
    """Send the request to one target, and deliver its reply. Raises the error as the client may see it."""
    exchange, response, provider = request.exchange, request.response, upstreams.providers[target.provider]
    attempt = Attempt(target)
    exchange.attempts.append(attempt)
    stream = EventStream() if exchange.decoded_request.stream else None
    reply: HttpReply | None = None
    try:
        # The encoded request is not kept in a variable: an open stream would retain the body.
        provider = provider if call.shared else await for_principal(provider, exchange.principal)
        reply, fields = await send(client, provider, _provider_request(exchange, attempt, upstreams), attempt)
        call.note_limits(fields)
        if stream is None:
            await relay_json(exchange, attempt, reply, fields, response)
        else:
            await open_stream(stream, attempt, reply, fields, response, timing.commit_after, has_next=has_next)
            call.health.first_byte(call.call, time.monotonic(), time.monotonic() - attempt.started)
            exchange.release_body()
            del fields  # an open stream retains nothing that it no longer needs
            redact = provider.credential.redact
            await relay_events(stream, reply, response, timing.linger, redact, exchange.request_id)
            exchange.usage = usage_of_stream(stream, attempt) or exchange.usage
        attempt.end = "answered" if stream is None or stream.state is StreamState.COMPLETE else "broken"
    except BaseException as error:  # noqa: BLE001 - it is recorded in the attempt, and raised again
        shown = _shown(exchange, provider, error)
        _note_failure(request, provider, attempt, stream, shown)
        call.verdict, call.retry_after = verdict_on(attempt, shown)
        try:
            raise shown from error.__cause__
        finally:
            del shown
    finally:
        _finish(exchange, attempt, reply)


def _set_aside(request: ActiveRequest) -> None:
    """Make room for the next attempt. What the failed one has cost is the operator's: the caller pays for one."""
    exchange = request.exchange
    exchange.attempts[-1].usage, exchange.usage = exchange.usage, None
    request.response.release()


def _charge_one(exchange: Exchange) -> None:
    """Charge the caller for the last attempt that may have been billed."""
    if exchange.usage is None:
        for attempt in reversed(exchange.attempts):
            if attempt.usage is not None:
                exchange.usage, attempt.usage = attempt.usage, None
                return


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
        committed = response.stream is not None or response.has_content
        attempt.end = classify(error, committed=committed, own_credential=provider.credential.is_operators)
        if attempt.end == "unsupported" and exchange.decoded_request.violation:
            attempt.end = "refused"  # the request itself is invalid, for all models of Anthropic's
        attempt.sent = attempt.sent and attempt.end != "not_sent"
        _log_failure(exchange, provider, attempt, error)
    elif isinstance(error, Exception):  # of the host's own HTTP client, or a fault of ours
        attempt.end = "broken" if response.has_content else "unknown" if attempt.sent else "unsupported"
    body = exchange.decoded_request.body
    if attempt.possibly_billed and exchange.usage is None and not exchange.counting and body:
        exchange.usage = estimated_input(body)


def _shown(exchange: Exchange, provider: Provider, error: BaseException) -> BaseException:
    """The error as the client may see it: an `error` event about the gateway's credential is replaced."""
    if isinstance(error, UpstreamErrorResponse) and error.event:
        return hide_credential_error(provider, exchange.request_id, error)
    return error


def _log_failure(exchange: Exchange, provider: Provider, attempt: Attempt, error: BaseException) -> None:
    if isinstance(error, TranslatedUpstreamError):
        attempt.failure = error.upstream_message
    elif isinstance(error, UpstreamUnavailable):
        attempt.failure = shown_in_log(provider.credential, exchange.headers, str(error.__cause__ or error))
    if attempt.failure is not None:
        _log.warning("%s: %s failed: %s", exchange.request_id, provider.name, attempt.failure)


def _provider_request(exchange: Exchange, attempt: Attempt, upstreams: Upstreams) -> ProviderRequest:
    """The request for a provider, without the dropped account fields, which are noted in the attempt.

    The headers that proved the caller to us are left out: these credentials stay here.
    """
    request, headers = exchange.decoded_request, exchange.headers
    if exchange.account_fields:
        dropped = upstreams.dropped_fields[attempt.target.provider]
        request, headers, attempt.dropped = without_fields(request, headers, exchange.account_fields, dropped)
    if exchange.credential_headers:
        headers = dict(headers)
        for name in exchange.credential_headers:
            headers.pop(name, None)
    return ProviderRequest(
        request, headers, attempt.target.model, exchange.request_id, exchange.hops, attempt, exchange.header_names
    )

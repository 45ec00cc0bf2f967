"""One call of a target: send the request, wait until the reply begins, deliver it, and record how the attempt ended."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Mapping
from typing import NoReturn

import msgspec

from bud_asgi.attempt import Attempt, Target
from bud_asgi.clock import Timing
from bud_asgi.disconnect import ActiveRequest
from bud_asgi.exchange import Exchange
from bud_asgi.failover import Failure, RetryBudget, classify, verdict_on
from bud_asgi.field_policy import without_fields
from bud_asgi.http import CapturedReply, HttpClient, HttpReply, Reply
from bud_asgi.observer import NO_OBSERVERS, Observers
from bud_asgi.protocol.errors import ClientGone, GatewayError, read_error
from bud_asgi.protocol.estimate import estimated_input
from bud_asgi.protocol.headers import Headers
from bud_asgi.protocol.sse import MAX_NOTED, EventStream, StreamState
from bud_asgi.protocol.trace_context import with_trace_context
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
    traits_of,
)
from bud_asgi.relay import (
    accept_json,
    hold_events,
    read_json,
    relay_events,
    relay_large_json,
    start_stream,
    usage_of_stream,
)
from bud_asgi.routing import Call, Fleet, Health, Verdict

_log = logging.getLogger("bud_asgi")


class Upstreams(msgspec.Struct, eq=False):
    """What attempts are made with: providers by name, the account fields that each does not get, and the budget.

    `fleet` has the health of the targets, `observers` are notified of each attempt. `shared` are the names of those
    providers whose account is the same for all callers.
    """

    providers: Mapping[str, Provider]
    dropped_fields: Mapping[str, frozenset[str]]
    fleet: Fleet
    budget: RetryBudget
    observers: Observers = NO_OBSERVERS
    shared: frozenset[str] = frozenset()

    def __post_init__(self) -> None:
        """Find out whose accounts are shared, once."""
        self.shared = frozenset(name for name, provider in self.providers.items() if serves_all(provider))


class Run(msgspec.Struct, frozen=True, eq=False):
    """What the attempts of one request have in common, and those that have failed. `streams`: it is for a stream."""

    request: ActiveRequest
    upstreams: Upstreams
    client: HttpClient
    timing: Timing
    failures: list[Failure]
    streams: bool

    @property
    def deadline(self) -> float:
        """When no further attempt is made, on the monotonic clock: some seconds after the first one began."""
        began = min(attempt.started for attempt in self.request.exchange.attempts)
        return began + self.timing.failover_within


class UpstreamCall(msgspec.Struct, eq=False):
    """An attempt as it runs: its record, and its reply once that has begun. It ends by `deliver` or by a failure.

    `shared`: the account there is the same for all callers; a limit or a refused credential of another one shows
    nothing of the target. `retried`: it was taken from the retry budget. `has_next`: another target may be tried after
    it. `held` are the events of a stream that have arrived before its response has started.
    """

    attempt: Attempt
    provider: Provider
    health: Health
    health_call: Call
    stream: EventStream | None
    retried: bool
    has_next: bool
    shared: bool
    reply: HttpReply | None = None
    fields: Headers = {}
    held: bytes = b""

    def take_held(self) -> bytes:
        """Remove and return the events that are held."""
        held, self.held = self.held, b""
        return held


def new_call(run: Run, target: Target, *, has_next: bool, retried: bool = False) -> UpstreamCall:
    """Record another attempt. Its request is not sent yet."""
    exchange, upstreams, now = run.request.exchange, run.upstreams, time.monotonic()
    upstreams.budget.count(now)
    attempt, health = Attempt(target, exchange.dropped, now), upstreams.fleet.health(target)
    exchange.attempts.append(attempt)
    provider, observers = upstreams.providers[target.provider], upstreams.observers
    if observers.attempt_started:
        attempt.service = traits_of(provider).service
        observers.notify(observers.attempt_started, exchange, attempt)
    stream = EventStream(max_noted=MAX_NOTED if observers.attempt_ended else 0) if run.streams else None
    shared = target.provider in upstreams.shared
    return UpstreamCall(attempt, provider, health, health.begin(now), stream, retried, has_next, shared)


async def begin(run: Run, call: UpstreamCall) -> UpstreamCall:
    """Send a request, and wait until its reply begins: a JSON reply by its head, a stream by its first event.

    With a next target, a stream begins by its first content. Raises the error as the client may see it.
    """
    attempt, stream = call.attempt, call.stream
    try:
        if not call.shared:
            call.provider = await for_principal(call.provider, run.request.exchange.principal)
        # The encoded request is not kept in a variable: an open stream would retain the body.
        call.reply, call.fields = await send(run.client, call.provider, _provider_request(run, attempt), attempt)
        if attempt.capture is not None:
            call.reply = CapturedReply(call.reply, attempt.capture)
        if call.shared:
            call.health.note_limits(attempt.head or attempt.started, call.fields, time.time)
        if stream is not None:
            within = run.timing.commit_after
            call.held = await hold_events(stream, attempt, call.reply, call.fields, within, has_next=call.has_next)
            first_event = attempt.first_event or attempt.started
            call.health.first_byte(call.health_call, first_event, first_event - attempt.started)
        if call.retried:
            run.upstreams.budget.give_back(time.monotonic())
    except BaseException as error:  # noqa: BLE001 - it is recorded in the attempt, and raised again
        _fail(run, call, error)
    return call


async def deliver(run: Run, call: UpstreamCall) -> None:
    """Deliver a reply that has begun. Raises the error as the client may see it."""
    exchange, response = run.request.exchange, run.request.response
    attempt, stream, reply, fields, body = call.attempt, call.stream, call.reply, call.fields, b""
    if reply is None:
        raise RuntimeError("the reply has not begun")
    try:
        if stream is None:
            body, whole = (reply.take(), True) if reply.done else await read_json(reply, fields, attempt.deadline)
            if whole:
                headers = accept_json(exchange, attempt, fields, body)
                response.has_content = True
                await response.send_whole(200, headers, body)
            else:
                await relay_large_json(exchange, attempt, reply, fields, response, body)
                body = b""
            attempt.end = "answered"
        else:
            await start_stream(stream, attempt, fields, response)
            exchange.release_body()
            call.fields = {}  # an open stream retains nothing that it no longer needs
            del fields
            if isinstance(reply, Reply):  # the headers of another client's reply belong to that client
                reply.headers.clear()
            redact, linger = call.provider.credential.redact, run.timing.linger
            await relay_events(call.take_held(), stream, reply, response, linger, redact, exchange.request_id)
            attempt.usage = usage_of_stream(stream, attempt)
            attempt.end = "answered" if stream.state is StreamState.COMPLETE else "broken"
    except BaseException as error:  # noqa: BLE001 - it is recorded in the attempt, and raised again
        _fail(run, call, error)
    _close(run, call, "ok" if attempt.end == "answered" else "failed", None, body)


def abandon(run: Run, call: UpstreamCall, *, lost: bool) -> None:
    """End a call that is not wanted any more, unless it has ended. A task that runs it must be cancelled.

    `lost`: another one has begun first.
    """
    if call.attempt.end is None:
        if lost:
            now = time.monotonic()
            call.health.waited(now, now - call.attempt.started)
        _note_failure(run, call, asyncio.CancelledError())
        _close(run, call, "neutral")


def _fail(run: Run, call: UpstreamCall, error: BaseException) -> NoReturn:
    """End a call by an error, and raise it as the client may see it."""
    if call.attempt.end is None:
        if isinstance(error, UpstreamErrorResponse) and error.event:
            error = hide_credential_error(call.provider, run.request.exchange.request_id, error)
        _note_failure(run, call, error)
        if call.shared and isinstance(error, TranslatedUpstreamError | UpstreamErrorResponse):
            call.health.note_limits(time.monotonic(), error.fields, time.time)
        verdict, retry_after = verdict_on(call.attempt, error, time.time())
        is_of_caller = not call.shared and verdict in {"busy", "credential"}
        _close(run, call, "neutral" if is_of_caller else verdict, retry_after)
        if isinstance(error, GatewayError):
            run.failures.append(Failure(call.attempt.end or "unsupported", error))
    try:
        raise error from error.__cause__
    finally:
        del error


def _close(run: Run, call: UpstreamCall, verdict: Verdict, retry_after: float | None = None, body: bytes = b"") -> None:
    """Record the end. The connection of a reply that is not whole is closed. `body` is a JSON reply."""
    attempt = call.attempt
    attempt.ended = now = time.monotonic()
    if call.reply is not None:
        call.reply.close()
    call.health.end(call.health_call, now, verdict, retry_after)
    if call.stream is not None and call.stream.error is not None and attempt.end == "broken":
        error = read_error(call.stream.error)
        attempt.error_type = None if error is None else error.type
    if attempt.guardrail is not None and attempt.intervened:
        request_id, name = run.request.exchange.request_id, attempt.target.provider
        _log.warning("%s: a guardrail at %s intervened: %r", request_id, name, attempt.guardrail)
    observers = run.upstreams.observers
    if observers.attempt_ended:
        attempt.reply = (body,) if call.stream is None else (call.stream.start, call.stream.delta)
        observers.notify(observers.attempt_ended, run.request.exchange, attempt)
        attempt.reply = ()  # an open stream, or a task of the host's, may keep the record for long


def _note_failure(run: Run, call: UpstreamCall, error: BaseException) -> None:
    """Record how an attempt ended, and what its stream has cost until then."""
    exchange, response = run.request.exchange, run.request.response
    attempt, provider = call.attempt, call.provider
    if call.stream is not None:
        attempt.usage = usage_of_stream(call.stream, attempt)
    if isinstance(error, asyncio.CancelledError):
        attempt.end = "client_gone" if isinstance(run.request.aborted_by, ClientGone) else "cancelled"
    elif isinstance(error, OSError):  # the server's report of a disconnect
        attempt.end = "client_gone"
    elif isinstance(error, GatewayError):
        committed = response.stream is not None or response.has_content
        attempt.end = classify(error, committed=committed, own_credential=provider.credential.is_operators)
        if attempt.end == "unsupported" and exchange.decoded_request.violation:
            attempt.end = "refused"  # the request itself is invalid, for all models of Anthropic's
        attempt.sent = attempt.sent and attempt.end != "not_sent"
        if isinstance(error, TranslatedUpstreamError | UpstreamErrorResponse):
            attempt.error_type = error.type
        _log_failure(exchange, provider, attempt, error)
    elif isinstance(error, Exception):  # of the host's own HTTP client, or a fault of ours
        attempt.end = "broken" if response.has_content else "unknown" if attempt.sent else "unsupported"
    body = exchange.decoded_request.body
    if attempt.possibly_billed and attempt.usage is None and not exchange.counting and body:
        attempt.usage = estimated_input(body)


def _log_failure(exchange: Exchange, provider: Provider, attempt: Attempt, error: BaseException) -> None:
    if isinstance(error, TranslatedUpstreamError):
        attempt.failure = error.upstream_message
    elif isinstance(error, UpstreamUnavailable):
        attempt.failure = shown_in_log(provider.credential, exchange.headers, str(error.__cause__ or error))
    if attempt.failure is not None:
        _log.warning("%s: %s failed: %s", exchange.request_id, provider.name, attempt.failure)


def _provider_request(run: Run, attempt: Attempt) -> ProviderRequest:
    """The request for a provider, without the dropped account fields, which are noted in the attempt.

    The headers that proved the caller to us are left out: these credentials stay here. The trace context is that of the
    attempt, if it has one.
    """
    exchange = run.request.exchange
    request, headers = exchange.decoded_request, exchange.headers
    if exchange.account_fields:
        dropped = run.upstreams.dropped_fields[attempt.target.provider]
        request, headers, names = without_fields(request, headers, exchange.account_fields, dropped)
        attempt.dropped += names
    if attempt.trace_context:
        headers = with_trace_context(headers, attempt.trace_context)
    if exchange.credential_headers:
        headers = dict(headers)
        for name in exchange.credential_headers:
            headers.pop(name, None)
    return ProviderRequest(
        request, headers, attempt.target.model, exchange.request_id, exchange.hops, attempt, exchange.header_names
    )

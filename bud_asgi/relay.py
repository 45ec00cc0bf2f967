"""Delivering an upstream's reply: bytes go out as they come in, cut at whole events.

Until the response has started, a failure is raised and can still become a status, or another attempt. After that it is
raised too, and ends the stream by an `error` event.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from math import inf

from bud_asgi.attempt import Attempt
from bud_asgi.exchange import Exchange
from bud_asgi.http import HttpError, HttpReply, next_chunk, read_body
from bud_asgi.printable import one_line
from bud_asgi.protocol.errors import STATUS_OF_TYPE, error_body, read_error
from bud_asgi.protocol.guardrail import guardrail_action
from bud_asgi.protocol.headers import Headers, media_type, relayed_error_headers, relayed_headers
from bud_asgi.protocol.sse import (
    STREAM_HEADERS,
    EventStream,
    StreamState,
    error_event,
    is_error_event,
    split_events,
)
from bud_asgi.protocol.usage import Usage, usage_of_message
from bud_asgi.protocol.usage_scan import UsageScanner
from bud_asgi.providers import UpstreamErrorResponse, UpstreamUnavailable, authentication_failed, unavailable
from bud_asgi.response import Response

MAX_HELD_JSON = 4 << 20
"""The largest JSON reply that is held until it is whole, in bytes; a larger one is relayed as it arrives."""

_JSON = b"application/json"
_NO_MESSAGE = "The upstream's answer was not a Message."
_MAX_HELD_PINGS = 1 << 20
_WAITING, _REFUSED = StreamState.WAITING, StreamState.REFUSED
_LARGE = 16 << 10
"""Bytes of a chunk that is freed only when the next one has been read. If it were freed at once, the C library would
return its pages to the system before each read, and fault them in again (`mallopt(3)`, `M_TRIM_THRESHOLD`)."""
_SCANNED_AT_ONCE = 128 << 10  # bytes

Redact = Callable[[str], str]
"""Removes a credential from a text."""

_log = logging.getLogger("bud_asgi")


async def read_json(reply: HttpReply, fields: Headers, deadline: float) -> tuple[bytes, bool]:
    """Read a JSON reply until it is whole or too large to be held; returns its bytes, and whether it is whole.

    Raises `UpstreamUnavailable`, at once if it is not JSON.
    """
    _check_json(fields)
    try:
        return await read_body(reply, MAX_HELD_JSON, deadline)
    except HttpError as error:
        raise unavailable(error) from error


def accept_json(exchange: Exchange, attempt: Attempt, fields: Headers, body: bytes) -> list[tuple[bytes, bytes]]:
    """Take what accounting needs from a whole JSON reply of status 200, and release the request.

    Returns the headers for the client. Raises `UpstreamUnavailable` for anything but a JSON object.
    """
    headers = _begin_json(attempt, fields, body)
    if body.rstrip()[-1:] != b"}":
        raise UpstreamUnavailable(_NO_MESSAGE)
    if not exchange.counting:
        attempt.usage = usage_of_message(body)
    attempt.guardrail = guardrail_action(body)
    exchange.release_body()
    return headers


async def relay_large_json(
    exchange: Exchange, attempt: Attempt, reply: HttpReply, fields: Headers, response: Response, chunk: bytes
) -> None:
    """Relay a reply too large to be held. If it breaks off, so does the response: it is left without its end."""
    headers = _begin_json(attempt, fields, chunk)
    if length := fields.get(b"content-length"):
        headers.append((b"content-length", length))
    exchange.release_body()
    await response.start(headers)
    scanner = UsageScanner()
    try:
        while chunk:
            await response.write(chunk, pings=False)
            await _scan(scanner, chunk)
            chunk = await next_chunk(reply, attempt.deadline)
    except HttpError as error:
        response.break_off()
        raise unavailable(error) from error
    finally:
        attempt.usage = None if exchange.counting else scanner.usage
    await response.finish()


def _begin_json(attempt: Attempt, fields: Headers, beginning: bytes) -> list[tuple[bytes, bytes]]:
    """Note that a JSON object has begun to arrive; returns the headers for the client."""
    if fields.get(b"content-type") != _JSON:
        _check_json(fields)
    attempt.first_event = time.monotonic()
    if beginning.lstrip()[:1] != b"{":
        raise UpstreamUnavailable(_NO_MESSAGE)
    return relayed_headers(fields, attempt.upstream_request_id)


def _check_json(fields: Headers) -> None:
    if media_type(fields) != _JSON:
        raise UpstreamUnavailable("The upstream's answer was not JSON.")


async def _scan(scanner: UsageScanner, chunk: bytes) -> None:
    """Look for the usage, in steps that hold the event loop for a few milliseconds at most."""
    for at in range(0, len(chunk), _SCANNED_AT_ONCE):
        scanner.feed(chunk[at : at + _SCANNED_AT_ONCE])
        if len(chunk) > _SCANNED_AT_ONCE:
            await asyncio.sleep(0)


async def hold_events(
    stream: EventStream, attempt: Attempt, reply: HttpReply, fields: Headers, commit_after: float, *, has_next: bool
) -> bytes:
    """Wait until a stream of status 200 begins, and return its events so far: those are held back until then.

    It begins with its first event, or after `commit_after` seconds. Where there is a next target, the first event is
    that of its content: an error before it can be followed by another attempt. Raises `UpstreamErrorResponse` for an
    error before that event, `UpstreamUnavailable` for what is not a stream.
    """
    if media_type(fields) != b"text/event-stream":
        raise UpstreamUnavailable("The upstream's answer was not an event stream.")
    try:
        held = await _hold_until_first_event(stream, reply, commit_after, has_next=has_next)
    except HttpError as error:
        raise unavailable(error) from error
    attempt.first_event = time.monotonic()
    if stream.state is _REFUSED or (has_next and stream.error is not None and not stream.content):
        _raise_refusal(stream, fields, attempt.upstream_request_id)
        if has_next:
            raise UpstreamUnavailable("The upstream's stream began with an error.")
    return held


async def start_stream(stream: EventStream, attempt: Attempt, fields: Headers, response: Response) -> None:
    """Start the response to a stream that has begun."""
    headers = relayed_headers(fields, attempt.upstream_request_id)
    await response.start([*headers, *STREAM_HEADERS[1:]])
    response.enable_pings()  # an upstream may stay silent after its head
    response.stream = stream


def usage_of_stream(stream: EventStream, attempt: Attempt) -> Usage | None:
    """The usage that a stream has reported; where its final count is missing, what its upstream reported beside it."""
    usage = stream.usage
    if (usage is None or usage.estimated) and attempt.metered is not None:
        return (stream.reported or Usage()).updated(attempt.metered)
    return usage


async def _hold_until_first_event(stream: EventStream, reply: HttpReply, within: float, *, has_next: bool) -> bytes:
    """Read events for `within` seconds, or until one that is not a ping has arrived.

    With `has_next`, `message_start` does not count either.
    """
    deadline = time.monotonic() + within
    held = b""
    while _is_held(stream, has_next=has_next) and len(held) < _MAX_HELD_PINGS:
        chunk = await reply.more(within=max(0.0, deadline - time.monotonic()))
        if chunk is None:
            break
        if not chunk:
            raise UpstreamUnavailable("The upstream's stream ended before its first event.")
        held += stream.feed(chunk)
    return held


def _is_held(stream: EventStream, *, has_next: bool) -> bool:
    if stream.partial or stream.ended:
        return False
    return stream.state is _WAITING or (has_next and not stream.content)


def _raise_refusal(stream: EventStream, fields: Headers, request_id: str | None) -> None:
    """Raise the error that is a stream's first event; one that can't be read is relayed like any other event."""
    if stream.error is not None and (error := read_error(stream.error)):
        status = STATUS_OF_TYPE.get(error.type, 500)
        headers = relayed_error_headers(fields, request_id)
        raise UpstreamErrorResponse(status, stream.error, headers, event=True)


async def relay_events(
    events: bytes,
    stream: EventStream,
    reply: HttpReply,
    response: Response,
    linger: float,
    redact: Redact,
    request_id: str,
) -> None:
    """Relay the events that were held back, then those of the stream until it has ended, and end the response.

    An `error` event that `redact` would change contains the gateway's credential, and is replaced. Other events are not
    searched: they are the model's output, and an upstream has no reason to echo a credential there.

    Raises `UpstreamUnavailable` for a stream that breaks off, up to `linger` seconds after its end.
    """
    try:
        while not reply.done:
            if stream.error is not None:
                events = _without_echo(events, redact, request_id)
            if events:
                await response.write(events, pings=not (stream.partial or stream.ended))
                events = b""
            chunk = await reply.more(linger if stream.ended else inf)
            if chunk is None:
                break
            if chunk:
                events = stream.feed(chunk)
            if len(chunk) < _LARGE:
                del chunk  # an idle stream does not retain it
    except HttpError as error:
        raise unavailable(error) from error
    if rest := reply.take():
        events += stream.feed(rest)
    if stream.error is not None:
        events = _without_echo(events, redact, request_id)
    if stream.ended:
        await response.finish(events)
        return
    if events:
        await response.write(events, pings=False)
    raise UpstreamUnavailable("The upstream ended its stream before the message was whole.")


def _without_echo(events: bytes, redact: Redact, request_id: str) -> bytes:
    """Replace `error` events that contain the gateway's credential by an error without it."""
    kept: list[bytes] = []
    for event in split_events(events):
        text = event.decode("utf-8", "replace")
        if is_error_event(event) and (redacted := redact(text)) != text:
            _log.error("%s: an error event of the upstream echoed our credential: %s", request_id, one_line(redacted))
            event = error_event(error_body(authentication_failed(), request_id))  # noqa: PLW2901
        kept.append(event)
    return b"".join(kept)

"""Delivering an upstream's reply: bytes go out as they come in, cut at whole events.

Until the response has started, a failure is raised and can still become a status, or another attempt. After that it is
raised too, and ends the stream by an `error` event.
"""

from __future__ import annotations

import time
from math import inf

from bud_asgi.clock import Timing
from bud_asgi.exchange import Attempt, Exchange
from bud_asgi.http import HttpError, HttpReply, read_body
from bud_asgi.protocol.errors import STATUS_OF_TYPE, read_error
from bud_asgi.protocol.headers import Headers, media_type, relayed_headers, reply_fields
from bud_asgi.protocol.sse import STREAM_HEADERS, EventStream, StreamState
from bud_asgi.protocol.usage import usage_of_message
from bud_asgi.providers import UpstreamErrorResponse, UpstreamUnavailable, unavailable
from bud_asgi.response import Response

MAX_HELD_JSON = 4 << 20
"""The largest JSON reply that is held until it is whole, in bytes; a larger one is relayed as it arrives."""

_MAX_HELD_PINGS = 1 << 20


async def relay_json(exchange: Exchange, attempt: Attempt, reply: HttpReply, response: Response) -> None:
    """Deliver a JSON reply of status 200. Raises `UpstreamUnavailable` before the response has started."""
    fields = reply_fields(reply.headers)
    if media_type(fields) != b"application/json":
        raise UpstreamUnavailable("The upstream's answer was not JSON.")
    try:
        body, whole = await read_body(reply, MAX_HELD_JSON)
    except HttpError as error:
        raise unavailable(error) from error
    attempt.first_event = time.monotonic()
    if not body.lstrip().startswith(b"{") or (whole and not body.rstrip().endswith(b"}")):
        raise UpstreamUnavailable("The upstream's answer was not a Message.")
    headers = relayed_headers(fields, error=False)
    exchange.release_body()
    if whole:
        exchange.usage = None if exchange.counting else usage_of_message(body)
        response.has_content = True
        await response.send_whole(200, headers, body)
        return
    if length := fields.get(b"content-length"):
        headers.append((b"content-length", length))
    await response.start(headers)
    await _relay_rest(reply, response, body)


async def _relay_rest(reply: HttpReply, response: Response, chunk: bytes | None) -> None:
    """Relay a reply too large to be held. If it breaks off, so does the response: it is left without its end."""
    try:
        while chunk:
            await response.write(chunk, pings=False)
            chunk = await reply.more()
    except HttpError as error:
        response.break_off()
        raise unavailable(error) from error
    await response.finish()


async def relay_stream(
    exchange: Exchange, attempt: Attempt, reply: HttpReply, response: Response, timing: Timing
) -> None:
    """Deliver a stream of status 200.

    Raises `UpstreamErrorResponse` for an error that is its first event, `UpstreamUnavailable` for a stream that breaks
    off. Cancelled, the usage so far is in the exchange.
    """
    fields = reply_fields(reply.headers)
    if media_type(fields) != b"text/event-stream":
        raise UpstreamUnavailable("The upstream's answer was not an event stream.")
    stream = EventStream()
    try:
        await _hold_until_first_event(stream, reply, response, timing.commit_after)
        attempt.first_event = time.monotonic()
        if stream.state is StreamState.REFUSED:
            _raise_refusal(stream, fields)
        await response.start([*relayed_headers(fields, error=False), *STREAM_HEADERS[1:]])
        response.enable_pings()  # an upstream may stay silent after its head
        response.stream = stream
        exchange.release_body()
        del fields  # an open stream retains nothing that it no longer needs
        await _relay_events(stream, reply, response, timing.linger)
    except HttpError as error:
        raise unavailable(error) from error
    finally:
        exchange.usage = stream.usage


async def _hold_until_first_event(stream: EventStream, reply: HttpReply, response: Response, within: float) -> None:
    """Hold the response back for `within` seconds, or until an event that is not a ping has arrived."""
    deadline = time.monotonic() + within
    size = 0
    while stream.state is StreamState.WAITING and not stream.partial and size < _MAX_HELD_PINGS:
        chunk = await reply.more(within=max(0.0, deadline - time.monotonic()))
        if chunk is None:
            break
        if not chunk:
            raise UpstreamUnavailable("The upstream's stream ended before its first event.")
        events = stream.feed(chunk)
        size += len(events)
        response.hold(events)


def _raise_refusal(stream: EventStream, fields: Headers) -> None:
    """Raise the error that is a stream's first event; one that can't be read is relayed like any other event."""
    if stream.error is not None and (error := read_error(stream.error)):
        status = STATUS_OF_TYPE.get(error.type, 500)
        raise UpstreamErrorResponse(status, stream.error, relayed_headers(fields, error=True), event=True)


async def _relay_events(stream: EventStream, reply: HttpReply, response: Response, linger: float) -> None:
    """Relay events until the stream has ended, and end the response with its last ones."""
    events = response.take_held()
    while not reply.done:
        if events:
            await response.write(events, pings=not (stream.partial or stream.ended))
            events = b""
        chunk = await reply.more(linger if stream.ended else inf)
        if chunk is None:
            break
        if chunk:
            events = stream.feed(chunk)
    events += stream.feed(reply.take())
    if stream.ended:
        await response.finish(events)
        return
    if events:
        await response.write(events, pings=False)
    raise UpstreamUnavailable("The upstream ended its stream before the message was whole.")

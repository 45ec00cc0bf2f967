"""Delivering an upstream's reply: bytes go out as they come in, and every way it can end badly is told to the client.

Until the response has begun, a failure is a real status, raised as a `GatewayError`. After it, it is an `error` event.
"""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress

from starlette.types import Send

from bud_asgi.exchange import Attempt, Exchange
from bud_asgi.http import HttpError, HttpReply, read_body
from bud_asgi.protocol.errors import STATUS_OF_TYPE, GatewayError, error_body, read_error
from bud_asgi.protocol.headers import Headers, media_type, relayed_headers, reply_fields
from bud_asgi.protocol.sse import PING, STREAM_HEADERS, StreamObserver, error_event
from bud_asgi.protocol.usage import usage_of_message
from bud_asgi.providers import UpstreamErrorResponse, UpstreamUnavailable, failure_of
from bud_asgi.waiting import PING_AFTER

COMMIT_WITHIN = 2.0
"""Seconds from the upstream's head for which the response is held back, until the first event that is not a ping."""

LINGER = 2.0
"""Seconds that an upstream may take to end its reply after it has said all."""

END_WITHIN = 1.0
"""Seconds that a client gets to take the last event of a stream that is cut short."""

HOLD = 4 << 20
"""The largest JSON answer that is held until it is whole, in bytes; a larger one goes out as it comes."""

_HOLD_BEFORE_EVENT = 1 << 20


async def relay(
    exchange: Exchange, attempt: Attempt, reply: HttpReply, send: Send, *, stream: bool
) -> UpstreamErrorResponse | None:
    """Deliver a reply of status 200 in the Anthropic format. The reply is the caller's to close.

    Returns the upstream's own error, if that came as the first event, which is for the caller to judge and deliver;
    nothing of it has been sent then. Raises `UpstreamUnavailable`, only before the response has begun.
    """
    fields = reply_fields(reply.headers)
    try:
        if stream:
            return await _relay_stream(exchange, attempt, reply, fields, send)
        await _relay_json(exchange, attempt, reply, fields, send)
    except HttpError as error:
        raise failure_of(error) from error
    return None


async def deliver_refusal(exchange: Exchange, refusal: UpstreamErrorResponse, send: Send) -> None:
    """Pass an upstream's error on: its status, its bytes, and when to try again.

    Where pings have begun the response already, its bytes are the data of an `error` event.
    """
    exchange.outcome = "answered"
    if exchange.committed is not None:
        exchange.unfinished = None
        await send({"type": "http.response.body", "body": error_event(refusal.body)})
        return
    headers = [(b"content-type", b"application/json"), _length_of(refusal.body)]
    await exchange.start_response(send, refusal.status, headers + refusal.headers)
    await send({"type": "http.response.body", "body": refusal.body})


async def _relay_json(exchange: Exchange, attempt: Attempt, reply: HttpReply, fields: Headers, send: Send) -> None:
    if media_type(fields) != b"application/json":
        raise UpstreamUnavailable("The upstream's answer was not JSON.")
    body, whole = await read_body(reply, HOLD)
    attempt.first_event = time.monotonic()
    if not body.lstrip().startswith(b"{") or (whole and not body.rstrip().endswith(b"}")):
        raise UpstreamUnavailable("The upstream's answer was not a Message.")
    headers = relayed_headers(fields, error=False)
    if whole:
        exchange.usage = None if exchange.counting else usage_of_message(body)
        await exchange.start_response(send, 200, [*headers, _length_of(body)])
        exchange.outcome = "answered"
        await send({"type": "http.response.body", "body": body})
        return
    if length := fields.get(b"content-length"):
        headers.append((b"content-length", length))
    await exchange.start_response(send, 200, headers)
    await _relay_rest(exchange, reply, send, body)


async def _relay_rest(exchange: Exchange, reply: HttpReply, send: Send, chunk: bytes | None) -> None:
    """Relay an answer too large to be held. When it breaks off, so does the response: it is left without its end."""
    try:
        while chunk:
            await send({"type": "http.response.body", "body": chunk, "more_body": True})
            chunk = await reply.more()
    except HttpError:
        exchange.outcome = "upstream_failed"
        return
    exchange.outcome = "answered"
    await send({"type": "http.response.body", "body": b""})


async def _relay_stream(
    exchange: Exchange, attempt: Attempt, reply: HttpReply, fields: Headers, send: Send
) -> UpstreamErrorResponse | None:
    if media_type(fields) != b"text/event-stream":
        raise UpstreamUnavailable("The upstream's answer was not an event stream.")
    observer = StreamObserver()
    held = [await _hold(observer, reply)]  # emptied by whoever sends it: an open stream keeps nothing of its past
    attempt.first_event = time.monotonic()
    if observer.refused and observer.error is not None and (said := read_error(observer.error)):
        return UpstreamErrorResponse(
            STATUS_OF_TYPE.get(said.type, 500), observer.error, relayed_headers(fields, error=True)
        )
    if exchange.committed is None:
        headers = relayed_headers(fields, error=False)
        await exchange.start_response(send, 200, [*headers, *STREAM_HEADERS[1:]])
    exchange.unfinished = lambda error: _last_words(exchange, observer, error)
    exchange.forget_body()
    try:
        await _flow(exchange, observer, reply, send, held)
    except asyncio.CancelledError:
        exchange.outcome = "answered" if observer.finished else None
        raise
    finally:
        exchange.usage = observer.usage
    return None


def _last_words(exchange: Exchange, observer: StreamObserver, error: GatewayError) -> bytes:
    """What ends a stream that is cut short here: nothing, where it has said all and only its upstream lingers."""
    return b"" if observer.ended else observer.failure(error_body(error, exchange.request_id))


async def end_early(exchange: Exchange, send: Send, error: GatewayError) -> None:
    """End a stream that has begun by an `error` event, at the point where it stands; nothing where none has.

    For a cancelled stream it happens in the step of the cancellation: a server lets no later one out. A client that
    does not read can't keep us: what was handed to the server is all that can be done.
    """
    if exchange.unfinished is None:
        return
    with suppress(OSError):  # a TimeoutError is one; a server may raise another for a client that has left
        async with asyncio.timeout(END_WITHIN):
            await send({"type": "http.response.body", "body": exchange.unfinished(error)})
    exchange.unfinished = None


async def _hold(observer: StreamObserver, reply: HttpReply) -> bytes:
    """What came before the response may begin: up to the first event that is not a ping, or for two seconds."""
    held = bytearray()
    deadline = time.monotonic() + COMMIT_WITHIN
    while not observer.begun and len(held) < _HOLD_BEFORE_EVENT:
        chunk = await reply.more(within=max(0.0, deadline - time.monotonic()))
        if chunk is None:
            break
        if not chunk:
            raise UpstreamUnavailable("The upstream's stream ended before its first event.")
        held += chunk
        observer.feed(chunk)
    return bytes(held)


async def _flow(exchange: Exchange, observer: StreamObserver, reply: HttpReply, send: Send, held: list[bytes]) -> None:
    """Relay what comes until the stream has ended, and end the response as the stream did: whole, or with an error."""
    chunk: bytes | None = held.pop()
    failure: UpstreamUnavailable | None = None
    while not reply.done:
        if chunk:
            await send({"type": "http.response.body", "body": chunk, "more_body": True})
        try:
            chunk = await reply.more(LINGER if observer.ended else PING_AFTER)
        except HttpError as error:
            failure = failure_of(error)
            chunk = b""
            break
        if chunk:
            observer.feed(chunk)
        elif chunk is None and observer.ended:
            break
        elif chunk is None and observer.between_events:
            chunk = PING
    rest = reply.take()
    observer.feed(rest)
    last = (chunk or b"") + rest
    if not observer.ended:
        failure = failure or UpstreamUnavailable("The upstream ended its stream before the message was whole.")
        last += _last_words(exchange, observer, failure)
        exchange.outcome = "upstream_failed"
    else:
        exchange.outcome = "answered" if observer.finished else "upstream_failed"
    exchange.unfinished = None
    await send({"type": "http.response.body", "body": last})


def _length_of(body: bytes) -> tuple[bytes, bytes]:
    return b"content-length", str(len(body)).encode()

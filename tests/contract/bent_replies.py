"""Proxies that bend replies: what buffers, compressors, error handlers and stream parsers do to what comes back."""

from __future__ import annotations

import asyncio
import json
import re
import zlib
from collections.abc import AsyncIterator, Callable
from typing import Any

from msgspec.structs import replace

from contract.bending import Bender, Forward, Headers, ProxiedReply, ProxiedRequest

_EVENT = re.compile(rb"(.*?\n\n)", re.DOTALL)
_RETRY = (b"retry-after", b"retry-after-ms", b"x-should-retry")
_PAGE = b"<html><body><h1>502 Bad Gateway</h1></body></html>"


def _changed(reply: ProxiedReply, chunks: AsyncIterator[bytes]) -> ProxiedReply:
    """The same reply with another body of unknown length."""
    return replace(reply, headers=[line for line in reply.headers if line[0] != b"content-length"], chunks=chunks)


def _whole(edit: Callable[[bytes], bytes], *, only: Callable[[ProxiedReply], bool] = lambda _: True) -> Bender:
    """A bender that waits for all of a body, edits it, and passes it on at once."""

    async def edited(reply: ProxiedReply) -> AsyncIterator[bytes]:
        yield edit(b"".join([chunk async for chunk in reply.chunks]))

    async def bend(request: ProxiedRequest, forward: Forward) -> ProxiedReply:
        reply = await forward(request)
        return _changed(reply, edited(reply)) if only(reply) else reply

    return bend


def _events(edit: Callable[[bytes], bytes]) -> Bender:
    """A bender that takes a stream apart into events, and passes each on as it is then."""

    async def edited(reply: ProxiedReply) -> AsyncIterator[bytes]:
        pending = b""
        async for chunk in reply.chunks:
            *events, pending = _EVENT.split(pending + chunk)
            for event in events:
                if event:
                    yield edit(event)
        yield pending

    async def bend(request: ProxiedRequest, forward: Forward) -> ProxiedReply:
        reply = await forward(request)
        return _changed(reply, edited(reply)) if _is_stream(reply) else reply

    return bend


def _head(edit: Callable[[int, Headers], tuple[int, Headers]]) -> Bender:
    """A bender of status and headers."""

    async def bend(request: ProxiedRequest, forward: Forward) -> ProxiedReply:
        reply = await forward(request)
        status, headers = edit(reply.status, reply.headers)
        return replace(reply, status=status, headers=headers)

    return bend


def _is_stream(reply: ProxiedReply) -> bool:
    return any(value.startswith(b"text/event-stream") for name, value in reply.headers if name == b"content-type")


def _is_error(reply: ProxiedReply) -> bool:
    return reply.status >= 400


def _own_shape(error: bytes) -> bytes:
    return json.dumps({"detail": json.loads(error)["error"]["message"]}).encode()


def _reworded(error: bytes) -> bytes:
    return re.sub(rb'"message" *: *"[^"]*"', b'"message":"Something went wrong."', error)


def _rewritten(error: bytes) -> bytes:
    return json.dumps(json.loads(error)).encode() if error.startswith(b"{") else error


def _edit_data(event: bytes, edit: Callable[[dict[str, Any]], dict[str, Any]]) -> bytes:
    return re.sub(rb"(?<=data: )\{.*\}", lambda data: json.dumps(edit(json.loads(data[0]))).encode(), event)


def _halved(data: dict[str, Any]) -> dict[str, Any]:
    """Counts since the last report, where they were counts since the beginning."""
    usage = data.get("usage", {})
    return {**data, "usage": {name: n // 2 if isinstance(n, int) else n for name, n in usage.items()}}


def _listed(change: Callable[[str], str]) -> Callable[[bytes], bytes]:
    def edit(listing: bytes) -> bytes:
        reply = json.loads(listing)
        data = [{**entry, "id": change(entry["id"])} for entry in reply.get("data", [])]
        return json.dumps({**reply, "data": data}).encode()

    return edit


buffers_it_all = _whole(lambda whole: whole)
trims_the_end = _whole(lambda whole: whole.rstrip(b"\n") + b"\n", only=_is_stream)
splits_at_every_line_break = _whole(
    lambda whole: "\n".join(whole.decode().splitlines()).encode() + b"\n", only=_is_stream
)
eats_pings = _events(lambda event: b"" if event.startswith(b"event: ping") else event)
eats_comments = _events(lambda event: b"" if event.startswith(b":") else event)
eats_error_events = _events(lambda event: b"" if b"event: error" in event else event)
eats_unknown_events = _events(
    lambda event: event if re.match(rb":|event: (ping|error|message_|content_)", event) else b""
)
forgets_event_names = _events(lambda event: re.sub(rb"(?m)^event: .*\n", b"", event))
rewrites_events = _events(lambda event: _edit_data(event, lambda data: data))
renumbers_usage = _events(lambda event: _edit_data(event, _halved) if b"message_delta" in event else event)
says_done = _events(lambda event: event + b"data: [DONE]\n\n" if b"event: message_stop" in event else event)
gives_errors_its_shape = _whole(_own_shape, only=_is_error)
rewords_errors = _whole(_reworded, only=_is_error)
rewrites_errors = _whole(_rewritten, only=_is_error)
shows_its_own_page = _whole(lambda error: _PAGE, only=lambda reply: reply.status in {502, 504})
calls_every_error_500 = _head(lambda status, lines: (min(status, 500), lines))
calls_every_error_200 = _head(lambda status, lines: (200 if status >= 400 else status, lines))
drops_retry_headers = _head(lambda status, lines: (status, [line for line in lines if line[0] not in _RETRY]))
drops_the_request_id = _head(lambda status, lines: (status, [line for line in lines if line[0] != b"request-id"]))
tells_of_the_shared_account = _head(
    lambda status, lines: (status, [*lines, (b"anthropic-ratelimit-requests-remaining", b"3999")])
)
strips_listed_prefixes = _whole(
    _listed(lambda name: name.removeprefix("claude-")), only=lambda reply: not _is_stream(reply)
)
lists_names_of_its_own = _whole(_listed(lambda name: f"anthropic/{name}"), only=lambda reply: not _is_stream(reply))


async def buffers_four_kilobytes(request: ProxiedRequest, forward: Forward) -> ProxiedReply:
    """Pass on full buffers only, as proxies do out of the box."""
    reply = await forward(request)

    async def buffered() -> AsyncIterator[bytes]:
        pending = b""
        async for chunk in reply.chunks:
            pending += chunk
            if len(pending) >= 4096:
                yield pending
                pending = b""
        yield pending

    return _changed(reply, buffered())


async def compresses(request: ProxiedRequest, forward: Forward) -> ProxiedReply:
    """Compress what the client would take compressed."""
    reply = await forward(request)

    async def compressed() -> AsyncIterator[bytes]:
        deflater = zlib.compressobj(wbits=31)
        async for chunk in reply.chunks:
            yield deflater.compress(chunk)
        yield deflater.flush()

    return replace(
        _changed(reply, compressed()), headers=[*_changed(reply, reply.chunks).headers, (b"content-encoding", b"gzip")]
    )


async def pings_anywhere(request: ProxiedRequest, forward: Forward) -> ProxiedReply:
    """Insert pings between chunks."""
    reply = await forward(request)

    async def pinging() -> AsyncIterator[bytes]:
        async for chunk in reply.chunks:
            yield chunk[: len(chunk) // 2]
            yield b'event: ping\ndata: {"type": "ping"}\n\n'
            yield chunk[len(chunk) // 2 :]

    return _changed(reply, pinging()) if _is_stream(reply) else reply


async def tells_errors_as_events(request: ProxiedRequest, forward: Forward) -> ProxiedReply:
    """Start the stream before the upstream responds."""
    reply = await forward(request)

    async def event() -> AsyncIterator[bytes]:
        yield b"event: error\ndata: " + b"".join([chunk async for chunk in reply.chunks]) + b"\n\n"

    if reply.status < 400 or b'"stream":true' not in request.body:
        return reply
    return ProxiedReply(200, [(b"content-type", b"text/event-stream")], event())


async def ends_cleanly_whatever_happens(request: ProxiedRequest, forward: Forward) -> ProxiedReply:
    """Make a good end of every stream, as a parser does that takes the end of the bytes for the end of the message."""
    reply = await forward(request)

    async def ended() -> AsyncIterator[bytes]:
        whole = b"".join([chunk async for chunk in reply.chunks])
        yield whole.partition(b"event: error")[0]

    return _changed(reply, ended()) if _is_stream(reply) else reply


async def stays_when_the_client_leaves(request: ProxiedRequest, forward: Forward) -> ProxiedReply:
    """Go on reading for a client that has gone."""
    return replace(await forward(request), watched=False)


async def is_late_with_errors(request: ProxiedRequest, forward: Forward) -> ProxiedReply:
    """Delay an error by a second."""
    reply = await forward(request)
    if reply.status >= 400:
        await asyncio.sleep(0.5)
    return reply

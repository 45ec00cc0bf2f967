"""The upstream of the benchmarks: raw HTTP over asyncio, plain and TLS, so that it costs little beside the gateways.

`python upstream.py CA_FILE` writes its certificate authority there and prints its two ports. The reply depends on the
model: `claude-haiku...` gets a small Message, `claude-paced` a stream with `max_tokens` deltas at 50 a second,
`claude-flat` the same as fast as the connection takes it, `claude-silent` the beginning of a stream and nothing more.
A call of Bedrock gets the same in Bedrock's frames.
`GET /ledger` returns a digest of what was received and sent since the last time, `GET /open` how many streams are open.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import re
import ssl
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import cast

import trustme
import uvloop

from bud_asgi.protocol.sse import PING
from bud_asgi.testing.bedrock.stream import chunk as frame

EVERY = 0.02
"""Seconds between two events of a paced stream."""

BATCH = 64
"""Deltas of a flat-out stream that are written at once, each as a chunk of its own."""

MESSAGE = json.dumps(
    {
        "id": "msg_01XFDUDYJgAACzvnptvVoYEL",
        "type": "message",
        "role": "assistant",
        "model": "claude-haiku-4-5",
        "content": [{"type": "text", "text": "Hello! How can I help you today?"}],
        "stop_reason": "end_turn",
        "stop_sequence": None,
        "usage": {"input_tokens": 12, "output_tokens": 9},
    }
).encode()

START = (
    b'event: message_start\ndata: {"type":"message_start","message":{"id":"msg_01XFDUDYJgAACzvnptvVoYEL",'
    b'"type":"message","role":"assistant","content":[],"model":"claude-haiku-4-5","stop_reason":null,'
    b'"stop_sequence":null,"usage":{"input_tokens":12,"output_tokens":1}}}\n\n'
)
BLOCK = (
    b'event: content_block_start\ndata: {"type":"content_block_start","index":0,'
    b'"content_block":{"type":"text","text":""}}\n\n'
)
DELTAS = [
    b'event: content_block_delta\ndata: {"type":"content_block_delta","index":0,'
    b'"delta":{"type":"text_delta","text":" word %02d"}}\n\n' % number
    for number in range(BATCH)
]
END = (
    b'event: content_block_stop\ndata: {"type":"content_block_stop","index":0}\n\n',
    b'event: message_delta\ndata: {"type":"message_delta","delta":{},"usage":{"output_tokens":500}}\n\n',
    b'event: message_stop\ndata: {"type":"message_stop"}\n\n',
)

_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
_MODEL = re.compile(rb'"model":"claude-([a-z]+)')
_EVENTS = re.compile(rb'"max_tokens":(\d+)')
_HEAD = b"HTTP/1.1 200 OK\r\nrequest-id: req_011CSHoEeqs5C35K2UUqR7Fy\r\ncontent-type: "
_ON_BEDROCK = re.compile(rb"POST /model/[a-z.]*claude-([a-z]+)")
_NUMBER = re.compile(rb'"user_id":"\d+"')


def json_reply(body: bytes) -> bytes:
    """A complete reply."""
    return b"%bapplication/json\r\ncontent-length: %d\r\n\r\n%b" % (_HEAD, len(body), body)


def chunked(event: bytes) -> bytes:
    """An event as a chunk."""
    return b"%x\r\n%b\r\n" % (len(event), event)


def framed(event: bytes) -> bytes:
    """The same event as a chunk that contains a frame of Bedrock."""
    return chunked(frame(event[event.index(b"data: ") + 6 : -2]))


class Form:
    """A stream on the wire: `head`, `start`, `chunks`, `last`. `started` is what the client gets for `start`."""

    def __init__(self, media_type: bytes, write: Callable[[bytes], bytes], after_start: bytes) -> None:
        self.head = b"%b%b\r\ntransfer-encoding: chunked\r\n\r\n" % (_HEAD, media_type)
        self.start, self.started = write(START) + write(BLOCK), START + after_start + BLOCK
        self.chunks = [write(event) for event in DELTAS]
        self.last = b"".join(write(event) for event in END) + b"0\r\n\r\n"


EVENTS = Form(b"text/event-stream; charset=utf-8", chunked, b"")
FRAMES = Form(b"application/vnd.amazon.eventstream", framed, PING)
MESSAGE_REPLY = json_reply(MESSAGE)


def identity(body: bytes) -> bytes:
    """The number in a request, which stays when the request is rewritten for a cloud."""
    number = _NUMBER.search(body)
    return number[0] if number else b""


class Ledger:
    """A digest of each request body, and of its reply body."""

    def __init__(self) -> None:
        self._entries: list[bytes] = []

    def add(self, request: bytes, reply: bytes) -> None:
        """Add the two digests of one exchange."""
        self._entries.append(request + reply)

    def close(self) -> list[int | str]:
        """Return the number of entries and one digest of all, in any order; begin again with none."""
        entries, self._entries = sorted(self._entries), []
        return [len(entries), hashlib.sha256(b"".join(entries)).hexdigest()]


def digest(data: bytes) -> bytes:
    """The digest of a body."""
    return hashlib.sha256(data).digest()


class Shared:
    """State that all connections share."""

    def __init__(self) -> None:
        self.ledger = Ledger()
        self.open = 0
        self.all_ended_at = 0.0


class Upstream(asyncio.Protocol):
    """One connection: requests in, one after the other, replies out."""

    _transport: asyncio.Transport

    def __init__(self, shared: Shared) -> None:
        self._shared = shared
        self._pending = bytearray()
        self._whole: tuple[int, int] | None = None
        self._writable = True
        self._streaming = self._flat = False
        self._left = 0
        self._received_digest = b""
        self._form = EVENTS
        self._sent = hashlib.sha256()
        self._next = 0.0
        self._timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport."""
        self._transport = cast("asyncio.Transport", transport)

    def connection_lost(self, exc: Exception | None) -> None:
        """The gateway has closed the connection."""
        self._end_stream()

    def data_received(self, data: bytes) -> None:
        """Collect a request, and answer it when it is complete."""
        pending = self._pending
        pending += data
        if self._whole is None:
            end = pending.find(b"\r\n\r\n")
            if end < 0:
                return
            length = _LENGTH.search(pending, 0, end)
            self._whole = end + 4, end + 4 + (int(length[1]) if length else 0)
        start, end = self._whole
        if len(pending) >= end:
            target = bytes(pending[: pending.find(b" HTTP/")])
            body = bytes(pending[start:end])
            del pending[:end]
            self._whole = None
            self._answer(target, body)

    def pause_writing(self) -> None:
        """The transport's buffer is full."""
        self._writable = False

    def resume_writing(self) -> None:
        """The transport has room again."""
        self._writable = True
        if self._flat:
            self._flood()

    def _answer(self, target: bytes, body: bytes) -> None:
        shared = self._shared
        if target.startswith(b"GET "):
            counts = shared.ledger.close() if target == b"GET /ledger" else [shared.open, shared.all_ended_at]
            self._transport.write(json_reply(json.dumps(counts).encode()))
            return
        on_bedrock = _ON_BEDROCK.match(target)
        model = on_bedrock or _MODEL.search(body)
        kind = model[1] if model else b""
        self._form = FRAMES if on_bedrock else EVENTS
        self._received_digest = digest(identity(body) if on_bedrock else body)
        if kind == b"haiku":
            shared.ledger.add(self._received_digest, digest(MESSAGE))
            self._transport.write(MESSAGE_REPLY)
            return
        events = _EVENTS.search(body)
        self._left = int(events[1]) if events else 0
        self._sent = hashlib.sha256(self._form.started)
        self._streaming = True
        shared.open += 1
        self._transport.write(self._form.head + self._form.start)
        if kind == b"paced":
            self._next = asyncio.get_running_loop().time()
            self._pace()
        elif kind == b"flat":
            self._flat = True
            self._flood()

    def _pace(self) -> None:
        """Write one event, and the next one by the clock."""
        if not self._left:
            self._stop()
            return
        self._left -= 1
        number = self._left % BATCH
        self._sent.update(DELTAS[number])
        self._transport.write(self._form.chunks[number])
        self._next += EVERY
        self._timer = asyncio.get_running_loop().call_at(self._next, self._pace)

    def _flood(self) -> None:
        """Write batches of events while the transport takes them."""
        while self._writable and self._left:
            size = min(self._left, BATCH)
            self._left -= size
            self._sent.update(b"".join(DELTAS[:size]))
            self._transport.write(b"".join(self._form.chunks[:size]))
        if self._writable and self._flat:
            self._stop()

    def _stop(self) -> None:
        self._sent.update(b"".join(END))
        self._shared.ledger.add(self._received_digest, self._sent.digest())
        self._end_stream()
        self._transport.write(self._form.last)

    def _end_stream(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._flat = False
        if self._streaming:
            self._streaming = False
            self._shared.open -= 1
            if not self._shared.open:
                self._shared.all_ended_at = time.monotonic()


async def serve(ca_file: Path) -> None:
    """Listen on loopback until killed."""
    authority = trustme.CA()
    authority.cert_pem.write_to_path(ca_file)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)  # pyright: ignore[reportUnknownMemberType] - pyOpenSSL may be absent
    loop = asyncio.get_running_loop()
    shared = Shared()
    plain = await loop.create_server(lambda: Upstream(shared), "127.0.0.1", 0, backlog=2048)
    secure = await loop.create_server(lambda: Upstream(shared), "127.0.0.1", 0, backlog=2048, ssl=context)
    print(plain.sockets[0].getsockname()[1], secure.sockets[0].getsockname()[1], flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    uvloop.run(serve(Path(sys.argv[1])))

"""Carries out a `Reply`: head, framing, pace, and the way it ends. Bytes go to a `Wire`; sockets are elsewhere."""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import Iterable, Iterator, Sequence
from http import HTTPStatus
from typing import Protocol

from bud_asgi.testing.server.replies import Cut, Ending, Framing, Rendered, Reply

_FRAMED_ENDINGS = frozenset[Ending]({"whole", "close", "close-unsaid", "close-on-reuse", "reset-on-reuse"})


_REASONS = {status.value: status.phrase for status in HTTPStatus} | {529: "Overloaded"}


class Wire(Protocol):
    """The connection as a reply sees it."""

    async def write(self, data: bytes) -> None:
        """Write, and wait until the kernel has taken all of it. Cancelled when the peer goes away."""
        ...

    def close(self) -> None:
        """Close: what was written arrives, then the end of the stream."""
        ...

    def reset(self) -> None:
        """Close with an RST."""
        ...

    def close_on_reuse(self, *, reset: bool) -> None:
        """Let it live until its next byte arrives."""
        ...


Headers = Sequence[tuple[str, str]]


async def perform(reply: Reply, body: Rendered, headers: Headers, wire: Wire, *, method: bytes, keep: bool) -> bool:
    """Send the reply and end it as it says. True if the connection may serve another request.

    `headers` are the service's own; `keep` is whether the request lets the connection live.
    """
    await asyncio.sleep(reply.wait)
    pieces = _compressed(body.pieces) if reply.gzip else body.pieces
    framed = reply.end in _FRAMED_ENDINGS
    framing = reply.framing or ("chunked" if body.stream else "length")
    length, pieces = _measured(reply, pieces, framing)
    close = not keep or reply.end == "close" or (framing == "none" and reply.end == "whole" and reply.head is None)
    await _write(wire, _head(reply, body, headers, framing, length, close=close), reply.segment)
    if method != b"HEAD":
        await _write_body(reply, pieces, framing, wire)
        if framed and framing == "chunked":
            await _write(wire, b"0\r\n\r\n", reply.segment)
        await _write(wire, reply.surplus, reply.segment)
    return await _end(reply.end, wire, close=close)


async def _write_body(reply: Reply, pieces: Iterable[bytes], framing: Framing, wire: Wire) -> None:
    stall_at, stall_for = reply.stall or (None, 0.0)
    sent = 0
    for piece in _split(pieces, reply.piece, stall_at):
        if sent == stall_at:
            await asyncio.sleep(stall_for)
        if reply.delay:
            await asyncio.sleep(reply.delay)
        framed = b"%x\r\n%b\r\n" % (len(piece), piece) if framing == "chunked" else piece
        await _write(wire, framed, reply.segment)
        sent += len(piece)


async def _write(wire: Wire, data: bytes, segment: int | None) -> None:
    size = segment or max(1, len(data))
    for start in range(0, len(data), size):
        await wire.write(data[start : start + size])
        await asyncio.sleep(0)  # a client on the same loop gets its turn, and each segment its own


async def _end(end: Ending, wire: Wire, *, close: bool) -> bool:
    match end:
        case "whole" | "close":
            if close:
                wire.close()
            return not close
        case "close-unsaid" | "eof":
            wire.close()
        case "close-on-reuse" | "reset-on-reuse":
            wire.close_on_reuse(reset=end == "reset-on-reuse")
        case "reset":
            wire.reset()
        case "hang":
            await asyncio.get_running_loop().create_future()  # until cancelled: the peer went away
    return False


def _head(
    reply: Reply, body: Rendered, headers: Headers, framing: Framing, length: int | None, *, close: bool
) -> bytes:
    if reply.head is not None:
        return reply.head
    own = [("content-type", body.content_type), *headers]
    if body.stream:
        own.append(("cache-control", "no-cache"))
    if framing == "chunked":
        own.append(("transfer-encoding", "chunked"))
    elif length is not None:
        own.append(("content-length", str(length + reply.missing)))
    if reply.gzip:
        own.append(("content-encoding", "gzip"))
    if close:
        own.append(("connection", "close"))
    given = {name.lower() for name, _ in reply.headers}
    fields = [*(field for field in own if field[0] not in given), *reply.headers]
    lines = [f"HTTP/1.1 {reply.status} {_reason(reply.status)}", *(f"{name}: {value}" for name, value in fields)]
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")


def _reason(status: int) -> str:
    return _REASONS.get(status, "")


def _measured(reply: Reply, pieces: Iterable[bytes], framing: Framing) -> tuple[int | None, Iterable[bytes]]:
    """The length to claim, and the pieces to send. Only here is a body that is made while it is sent gathered."""
    if framing != "length" and not isinstance(reply.cut, str):
        return None, pieces if reply.cut is None else _limited(pieces, reply.cut)
    whole = list(pieces)
    sent = whole if reply.cut is None else list(_limited(whole, _position(reply.cut, whole)))
    claimed = sent if reply.end in _FRAMED_ENDINGS else whole
    return sum(map(len, claimed)) if framing == "length" else None, sent


def _position(cut: Cut, pieces: Sequence[bytes]) -> int:
    if isinstance(cut, int):
        return cut
    at = len(pieces) - 1 if cut == "message_stop" else len(pieces) // 2
    before = sum(map(len, pieces[:at]))
    return before + len(pieces[at]) // 2 if cut == "middle" and pieces else before


def _limited(pieces: Iterable[bytes], limit: int) -> Iterator[bytes]:
    for piece in pieces:
        if limit <= 0:
            return
        yield piece[:limit]
        limit -= len(piece)


def _split(pieces: Iterable[bytes], size: int | None, also_at: int | None) -> Iterator[bytes]:
    """Pieces of at most `size` bytes, none of which crosses the position `also_at`."""
    position = 0
    for piece in pieces:
        start = 0
        while start < len(piece):
            stop = len(piece) if size is None else min(len(piece), start + size)
            if also_at is not None and position < also_at < position + stop - start:
                stop = start + also_at - position
            yield piece[start:stop]
            position += stop - start
            start = stop


def _compressed(pieces: Iterable[bytes]) -> Iterator[bytes]:
    deflater = zlib.compressobj(wbits=31)
    for piece in pieces:
        yield deflater.compress(piece) + deflater.flush(zlib.Z_SYNC_FLUSH)
    yield deflater.flush()

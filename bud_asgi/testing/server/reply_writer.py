"""Writes a `Reply`: head, framing, pace, and the end. Bytes go to a `Wire`; nothing here uses sockets."""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import Iterable, Iterator, Sequence
from http import HTTPStatus
from typing import Protocol

from bud_asgi.testing.server.replies import Cut, Ending, Framing, Rendered, Reply

_COMPLETE_ENDINGS = frozenset[Ending]({"whole", "close", "close-silently", "close-on-reuse", "reset-on-reuse"})
_REASONS = {status.value: status.phrase for status in HTTPStatus} | {529: "Overloaded"}


class Wire(Protocol):
    """The connection, as far as replies need it."""

    async def write(self, data: bytes) -> None:
        """Write, and wait until the kernel has taken all of it. Cancelled when the client disconnects."""
        ...

    def close(self) -> None:
        """Close after all data that was written."""
        ...

    def reset(self) -> None:
        """Close with an RST."""
        ...

    def close_on_reuse(self, *, reset: bool) -> None:
        """Keep the connection open until its next byte arrives."""
        ...


Headers = Sequence[tuple[str, str]]


async def write_reply(
    reply: Reply, body: Rendered, headers: Headers, wire: Wire, *, method: bytes, keep_alive: bool
) -> bool:
    """Write the reply, then end it as its `end` says. Returns whether the connection stays open for another request.

    `headers` are the service's own. `keep_alive`: the request allows another one on the connection.
    """
    await asyncio.sleep(reply.wait)
    pieces = _gzip(body.pieces) if reply.gzip else body.pieces
    complete = reply.end in _COMPLETE_ENDINGS
    framing = reply.framing or ("chunked" if body.stream else "length")
    length, pieces = _measure(reply, pieces, framing)
    close = (
        not keep_alive or reply.end == "close" or (framing == "none" and reply.end == "whole" and reply.head is None)
    )
    await _write(wire, _head(reply, body, headers, framing, length, close=close), reply.segment)
    if method != b"HEAD":
        await _write_body(reply, pieces, framing, wire)
        if complete and framing == "chunked":
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
        await asyncio.sleep(0)  # lets a client on the same loop run, so that each segment arrives separately


async def _end(end: Ending, wire: Wire, *, close: bool) -> bool:
    match end:
        case "whole" | "close":
            if close:
                wire.close()
            return not close
        case "close-silently" | "eof":
            wire.close()
        case "close-on-reuse" | "reset-on-reuse":
            wire.close_on_reuse(reset=end == "reset-on-reuse")
        case "reset":
            wire.reset()
        case "hang":
            await asyncio.get_running_loop().create_future()  # cancelled when the client disconnects
    return False


def _head(
    reply: Reply, body: Rendered, headers: Headers, framing: Framing, length: int | None, *, close: bool
) -> bytes:
    if reply.head is not None:
        return reply.head
    fields = [("content-type", body.content_type), *headers]
    if body.stream:
        fields.append(("cache-control", "no-cache"))
    if framing == "chunked":
        fields.append(("transfer-encoding", "chunked"))
    elif length is not None:
        fields.append(("content-length", str(length + reply.missing)))
    if reply.gzip:
        fields.append(("content-encoding", "gzip"))
    if close:
        fields.append(("connection", "close"))
    replaced = {name.lower() for name, _ in reply.headers}
    fields = [*(field for field in fields if field[0] not in replaced), *reply.headers]
    lines = [f"HTTP/1.1 {reply.status} {_reason(reply.status)}", *(f"{name}: {value}" for name, value in fields)]
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")


def _reason(status: int) -> str:
    return _REASONS.get(status, "")


def _measure(reply: Reply, pieces: Iterable[bytes], framing: Framing) -> tuple[int | None, Iterable[bytes]]:
    """Return the `content-length` to send, and the pieces. A `Lazy` body is collected only if its length is needed."""
    if framing != "length" and not isinstance(reply.cut, str):
        return None, pieces if reply.cut is None else _truncate(pieces, reply.cut)
    full = list(pieces)
    sent = full if reply.cut is None else list(_truncate(full, _position(reply.cut, full)))
    announced = sent if reply.end in _COMPLETE_ENDINGS else full
    return sum(map(len, announced)) if framing == "length" else None, sent


def _position(cut: Cut, pieces: Sequence[bytes]) -> int:
    if isinstance(cut, int):
        return cut
    index = len(pieces) - 1 if cut == "message_stop" else len(pieces) // 2
    before = sum(map(len, pieces[:index]))
    return before + len(pieces[index]) // 2 if cut == "middle" and pieces else before


def _truncate(pieces: Iterable[bytes], limit: int) -> Iterator[bytes]:
    for piece in pieces:
        if limit <= 0:
            return
        yield piece[:limit]
        limit -= len(piece)


def _split(pieces: Iterable[bytes], size: int | None, boundary: int | None) -> Iterator[bytes]:
    """Split into pieces of at most `size` bytes, none of which crosses the position `boundary`."""
    position = 0
    for piece in pieces:
        start = 0
        while start < len(piece):
            stop = len(piece) if size is None else min(len(piece), start + size)
            if boundary is not None and position < boundary < position + stop - start:
                stop = start + boundary - position
            yield piece[start:stop]
            position += stop - start
            start = stop


def _gzip(pieces: Iterable[bytes]) -> Iterator[bytes]:
    deflater = zlib.compressobj(wbits=31)
    for piece in pieces:
        yield deflater.compress(piece) + deflater.flush(zlib.Z_SYNC_FLUSH)
    yield deflater.flush()

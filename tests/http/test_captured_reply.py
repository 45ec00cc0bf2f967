"""A reply whose bytes are also given to a function: nothing else changes, whatever that does."""

from __future__ import annotations

import logging

import pytest

from bud_asgi.http import CapturedReply, HttpReply
from bud_asgi.http.fields import Header


class Reply:
    """A reply of three chunks, the last of which has been received."""

    status, headers, closed = 200, list[Header](), False

    def __init__(self) -> None:
        self.chunks = [b"a", None, b"b", b"c"]

    @property
    def done(self) -> bool:
        return len(self.chunks) < 2

    def take(self) -> bytes:
        return self.chunks.pop(0) or b"" if self.chunks else b""

    async def more(self, within: float = 0.0) -> bytes | None:
        return self.chunks.pop(0)

    def close(self) -> None:
        self.closed = True


async def read(reply: HttpReply) -> list[bytes | None]:
    """Read a reply to its end, and close it."""
    found: list[bytes | None] = []
    while not reply.done:
        found.append(await reply.more())
    found.append(reply.take())
    reply.close()
    return found


async def test_all_bytes_are_captured_and_passed_on() -> None:
    captured: list[bytes] = []
    plain, reply = Reply(), Reply()
    assert await read(CapturedReply(reply, captured.append)) == await read(plain)
    assert b"".join(captured) == b"abc"
    assert reply.closed


async def test_a_function_that_raises_is_called_no_more(caplog: pytest.LogCaptureFixture) -> None:
    calls: list[bytes] = []

    def fail(chunk: bytes) -> None:
        calls.append(chunk)
        raise RuntimeError("an observer of the host's")

    with caplog.at_level(logging.ERROR):
        assert await read(CapturedReply(Reply(), fail)) == await read(Reply())
    assert calls == [b"a"]
    assert [record.getMessage() for record in caplog.records] == ["an observer failed to capture a reply"]

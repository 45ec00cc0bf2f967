"""A reply of Bedrock's, read through a codec: nothing is lost, nothing is late, and a failure comes last."""

from __future__ import annotations

import asyncio
from math import inf
from typing import Any

import pytest

from bud_asgi.http import HttpError, HttpReply
from bud_asgi.protocol.sse import PING
from bud_asgi.providers.bedrock.stream import ConvertedReply, CountToJson
from bud_asgi.testing.bedrock.stream import (
    chunk,
)

from .frames import DELTA, FRAMES, SSE, START, codec, wrong


class Reply:
    """A reply that brings its pieces one by one, then ends, or fails, or is silent (`None`)."""

    status = 200

    def __init__(self, *pieces: bytes | HttpError | None, headers: tuple[tuple[bytes, bytes], ...] = ()) -> None:
        self.headers = headers
        self.pieces = list(pieces)
        self.waiting = bytearray()
        self.asked_within: list[float] = []
        self.closed = 0

    @property
    def done(self) -> bool:
        return not self.pieces

    def take(self) -> bytes:
        data = bytes(self.waiting)
        self.waiting.clear()
        return data

    async def more(self, within: float = inf) -> bytes | None:
        self.asked_within.append(within)
        if data := self.take():
            return data
        if not self.pieces:
            return b""
        piece = self.pieces.pop(0)
        if isinstance(piece, HttpError):
            self.pieces.insert(0, piece)
            raise piece
        await asyncio.sleep(0)
        return piece

    def close(self) -> None:
        self.closed += 1


def stream(*pieces: bytes | HttpError | None) -> tuple[Reply, HttpReply]:
    reply = Reply(*pieces)
    return reply, ConvertedReply(reply, codec(), b"text/event-stream; charset=utf-8")


async def test_a_reply_hands_out_what_its_bytes_become() -> None:
    _, one = stream(FRAMES[:700], FRAMES[700:])
    read = b""
    while not one.done:
        read += await one.more() or b""
    assert read + one.take() == SSE
    assert await one.more() == b""
    assert one.take() == b""


async def test_the_end_is_known_with_the_last_bytes() -> None:
    _, one = stream(FRAMES)
    assert not one.done
    assert await one.more() == SSE
    assert one.done


async def test_what_waits_below_is_taken_without_waiting() -> None:
    reply, one = stream(b"")
    reply.waiting += FRAMES
    reply.pieces.clear()
    assert one.take() == SSE
    assert one.done
    assert reply.asked_within == []


async def test_what_waits_below_behind_the_last_bytes_is_handed_out_with_them() -> None:
    class Both(Reply):
        async def more(self, within: float = inf) -> bytes | None:
            data = await super().more(within)
            self.waiting += FRAMES[700:]
            return data

    one = ConvertedReply(Both(FRAMES[:700]), codec(), b"text/event-stream")
    assert await one.more() == SSE
    assert one.done


async def test_an_end_that_comes_alone() -> None:
    _, one = stream(FRAMES, b"")
    assert await one.more() == SSE
    assert not one.done
    assert await one.more() == b""
    assert one.done


async def test_silence_is_silence_and_nothing_is_lost() -> None:
    _, one = stream(FRAMES[:30], None, FRAMES[30:])
    assert await one.more(within=5) is None
    assert await one.more(within=5) == SSE


async def test_bytes_that_become_nothing_do_not_put_silence_off() -> None:
    reply, one = stream(FRAMES[:10], FRAMES[10:20], FRAMES[20:30], None)
    assert await one.more(within=5) is None
    assert all(0 < asked <= 5 for asked in reply.asked_within)
    assert reply.asked_within == sorted(reply.asked_within, reverse=True)
    assert len(set(reply.asked_within)) == 4


async def test_what_came_before_a_failure_is_handed_out_before_it_is_raised() -> None:
    _, one = stream(chunk(START) + wrong(-1) + FRAMES)
    assert await one.more() == b"event: message_start\ndata: %b\n\n%b" % (START, PING)
    for _ in range(2):
        with pytest.raises(HttpError, match="checksum") as raised:
            await one.more()
        assert (raised.value.kind, raised.value.sent, raised.value.answered) == ("protocol", True, True)
        assert not one.done
        assert one.take() == b""


async def test_a_stream_that_ends_inside_a_message_is_no_end() -> None:
    _, one = stream(chunk(START) + chunk(DELTA)[:-1])
    assert (await one.more() or b"").startswith(b"event: message_start")
    assert not one.done
    with pytest.raises(HttpError, match="ended after"):
        await one.more()


async def test_a_failure_below_comes_through() -> None:
    _, one = stream(chunk(START)[:-1], HttpError("reset", "gone", sent=True, answered=True))
    with pytest.raises(HttpError, match="gone"):
        await one.more()
    assert not one.done


async def test_cancelled_it_loses_nothing() -> None:
    class Slow(Reply):
        async def more(self, within: float = inf) -> bytes | None:
            await asyncio.sleep(0.05)
            return await super().more(within)

    one = ConvertedReply(Slow(FRAMES), codec(), b"text/event-stream")
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(one.more(), 0.01)
    assert await one.more() == SSE


def test_the_head_tells_of_the_other_type_and_of_no_length() -> None:
    reply = Reply(headers=((b"content-type", b"x"), (b"x-amzn-requestid", b"r"), (b"content-length", b"5")))
    one = ConvertedReply(reply, codec(), b"text/event-stream")
    assert (one.status, list(one.headers)) == (
        200,
        [(b"x-amzn-requestid", b"r"), (b"content-type", b"text/event-stream")],
    )
    one.close()
    assert reply.closed == 1


COUNTS: dict[str, tuple[list[bytes], bytes]] = {
    "at once": ([b'{"inputTokens":18}'], b'{"input_tokens":18}'),
    "in pieces": ([b' {"inputTo', b'kens" : 18, "more":1}\n'], b'{"input_tokens":18}'),
}


@pytest.mark.parametrize(("pieces", "wanted"), COUNTS.values(), ids=COUNTS.keys())
async def test_a_count(pieces: list[bytes], wanted: bytes) -> None:
    one = ConvertedReply(Reply(*pieces), CountToJson(), b"application/json")
    assert await one.more() == wanted
    assert one.done


@pytest.mark.parametrize(
    "body", [b"", b"{}", b"<html>", b'{"inputTokens":"x"}', b"[" * 100_000, b" " * 200_000 + b"{}"]
)
async def test_a_count_that_is_none(body: bytes) -> None:
    one: Any = ConvertedReply(Reply(body), CountToJson(), b"application/json")
    with pytest.raises(HttpError, match="count of tokens"):
        await one.more()


async def test_a_count_without_end_is_not_held() -> None:
    one = CountToJson()
    one.feed(b" " * 70_000)
    assert one.broken == "more than 65536 bytes for a count of tokens"

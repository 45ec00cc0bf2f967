"""A Bedrock reply read through a codec: nothing is lost or delayed, and an error comes after the bytes before it."""

from __future__ import annotations

import asyncio
from math import inf

import pytest

from bud_asgi.http import Codec, HttpError, HttpReply
from bud_asgi.protocol.sse import PING
from bud_asgi.providers.bedrock import Bedrock
from bud_asgi.providers.bedrock.provider import _converted
from bud_asgi.providers.bedrock.stream import CountToJson
from bud_asgi.testing.bedrock.stream import chunk, exception_message
from providers.cloud_requests import call_of

from .example_stream import DELTA, FRAMES, SSE, START, codec, corrupt


class Reply:
    """An upstream reply that arrives in `pieces`; `None` is a timeout, an `HttpError` is raised."""

    status = 200

    def __init__(self, *pieces: bytes | HttpError | None, headers: tuple[tuple[bytes, bytes], ...] = ()) -> None:
        self.headers = headers
        self.pieces = list(pieces)
        self.waiting = bytearray()
        self.waits: list[float] = []
        self.closed = 0

    @property
    def done(self) -> bool:
        return not self.pieces

    def take(self) -> bytes:
        data = bytes(self.waiting)
        self.waiting.clear()
        return data

    async def more(self, within: float = inf) -> bytes | None:
        self.waits.append(within)
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


def converted(reply: HttpReply, through: Codec | None = None, content_type: bytes = b"text/event-stream") -> HttpReply:
    return _converted(reply, through or codec(), content_type)


def stream(*pieces: bytes | HttpError | None) -> tuple[Reply, HttpReply]:
    reply = Reply(*pieces)
    return reply, converted(reply)


async def test_a_reply_returns_its_converted_bytes() -> None:
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


async def test_buffered_bytes_are_taken_without_waiting() -> None:
    reply, one = stream(b"")
    reply.waiting += FRAMES
    reply.pieces.clear()
    assert one.take() == SSE
    assert one.done
    assert reply.waits == []


async def test_bytes_buffered_after_the_last_chunk_are_returned_with_it() -> None:
    class Both(Reply):
        async def more(self, within: float = inf) -> bytes | None:
            data = await super().more(within)
            self.waiting += FRAMES[700:]
            return data

    one = converted(Both(FRAMES[:700]))
    assert await one.more() == SSE
    assert one.done


async def test_the_end_may_arrive_separately() -> None:
    _, one = stream(FRAMES, b"")
    assert await one.more() == SSE
    assert not one.done
    assert await one.more() == b""
    assert one.done


async def test_a_timeout_returns_none_and_nothing_is_lost() -> None:
    _, one = stream(FRAMES[:30], None, FRAMES[30:])
    assert await one.more(within=5) is None
    assert await one.more(within=5) == SSE


async def test_bytes_that_convert_to_nothing_do_not_extend_the_timeout() -> None:
    reply, one = stream(FRAMES[:10], FRAMES[10:20], FRAMES[20:30], None)
    assert await one.more(within=5) is None
    assert all(0 < wait <= 5 for wait in reply.waits)
    assert reply.waits == sorted(reply.waits, reverse=True)
    assert len(set(reply.waits)) == 4


async def test_bytes_before_an_error_are_returned_before_it_is_raised() -> None:
    _, one = stream(chunk(START) + corrupt(-1) + FRAMES)
    assert await one.more() == b"event: message_start\ndata: %b\n\n%b" % (START, PING)
    for _ in range(2):
        with pytest.raises(HttpError, match="checksum") as raised:
            await one.more()
        assert (raised.value.kind, raised.value.sent, raised.value.answered) == ("protocol", True, True)
        assert not one.done
        assert one.take() == b""


async def test_a_stream_that_ends_inside_a_message_is_an_error() -> None:
    _, one = stream(chunk(START) + chunk(DELTA)[:-1])
    assert (await one.more() or b"").startswith(b"event: message_start")
    assert not one.done
    with pytest.raises(HttpError, match="ended after"):
        await one.more()


async def test_the_error_that_ends_a_stream_is_logged_once_and_on_one_line(caplog: pytest.LogCaptureFixture) -> None:
    frame = exception_message("internalServerException", "account 123456789012\r\n\x1b[31mforged")
    bedrock = Bedrock(region="us-east-1", access_key="a", secret_key="s")
    head = ((b"content-type", b"application/vnd.amazon.eventstream"),)
    request = call_of({"stream": True})
    one = bedrock.decode(request, Reply(chunk(START), frame, b"more", b"", headers=head))
    while not one.done:
        await one.more()
    text = "in the stream InternalServerException: account 123456789012 \\u001b[31mforged"
    assert caplog.messages == [f"{request.request_id}: bedrock ended its stream with an error: {text}"]


async def test_an_error_of_the_connection_is_passed_on() -> None:
    _, one = stream(chunk(START)[:-1], HttpError("reset", "gone", sent=True, answered=True))
    with pytest.raises(HttpError, match="gone"):
        await one.more()
    assert not one.done


async def test_nothing_is_lost_when_cancelled() -> None:
    class Slow(Reply):
        async def more(self, within: float = inf) -> bytes | None:
            await asyncio.sleep(0.05)
            return await super().more(within)

    one = converted(Slow(FRAMES))
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(one.more(), 0.01)
    assert await one.more() == SSE


def test_the_head_has_the_new_content_type_and_no_length() -> None:
    reply = Reply(headers=((b"content-type", b"x"), (b"x-amzn-requestid", b"r"), (b"content-length", b"5")))
    one = converted(reply)
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
    one = converted(Reply(*pieces), CountToJson(), b"application/json")
    assert await one.more() == wanted
    assert one.done


@pytest.mark.parametrize(
    "body", [b"", b"{}", b"<html>", b'{"inputTokens":"x"}', b"[" * 100_000, b" " * 200_000 + b"{}"]
)
async def test_an_invalid_count(body: bytes) -> None:
    one = converted(Reply(body), CountToJson(), b"application/json")
    with pytest.raises(HttpError, match="token count"):
        await one.more()


async def test_a_count_over_the_maximum_is_not_buffered() -> None:
    one = CountToJson()
    one.feed(b" " * 70_000)
    assert one.error == "a token count of more than 65536 bytes"

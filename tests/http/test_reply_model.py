"""Any reply, split anywhere, cut off anywhere and read in any order, against a model of `HttpReply`."""

from __future__ import annotations

import asyncio
import itertools
import os
import ssl
from collections.abc import Callable
from dataclasses import dataclass

import pytest
import uvloop
from differences import ENGINES, Client
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from peer import CHUNKED, Peer, PeerConnection, request_to

from bud_asgi.http import HttpError, HttpReply

EXAMPLES = 1000 if "BUD_ASGI_TORTURE" in os.environ else 40


@dataclass(frozen=True)
class Script:
    """What the peer sends: `wire` up to `broken_at`, in segments; `places[n]` is the offset of body byte n."""

    head: int
    wire: bytes
    body: bytes
    places: tuple[int, ...]
    cuts: tuple[int, ...]
    broken_at: int | None

    @property
    def segments(self) -> list[bytes]:
        end = len(self.wire) if self.broken_at is None else self.broken_at
        edges = sorted({0, end, *(cut for cut in self.cuts if cut < end)})
        return [self.wire[a:b] for a, b in itertools.pairwise(edges)]

    @property
    def delivered(self) -> bytes:
        """The body bytes that a reader must get: all that were sent."""
        if self.broken_at is None:
            return self.body
        return bytes(byte for byte, place in zip(self.body, self.places, strict=True) if place < self.broken_at)


@st.composite
def scripts(draw: st.DrawFn) -> Script:
    parts = draw(st.lists(st.binary(min_size=1, max_size=40), max_size=4))
    body = b"".join(parts)
    if draw(st.booleans()):
        wire = CHUNKED
        places: list[int] = []
        for part in parts:
            wire += b"%x\r\n" % len(part)
            places += range(len(wire), len(wire) + len(part))
            wire += part + b"\r\n"
        wire += b"0\r\n" + draw(st.sampled_from([b"", b"x-t: 1\r\n"])) + b"\r\n"
        head = len(CHUNKED)
    else:
        wire = b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % len(body)
        head = len(wire)
        places = list(range(head, head + len(body)))
        wire += body
    cuts = draw(st.lists(st.integers(1, len(wire)), max_size=3))
    broken_at = draw(st.none() | st.integers(0, len(wire) - 1))
    return Script(head, wire, body, tuple(places), tuple(cuts), broken_at)


async def play(engine: str, script: Script, steps: list[str]) -> None:
    async def play_script(connection: PeerConnection) -> None:
        await connection.request()
        await connection.send(*script.segments)
        if script.broken_at is None:
            await connection.wait_closed()

    client = ENGINES[engine](ssl.create_default_context())
    async with Peer(play_script) as peer:
        try:
            await follow(client, peer, script, steps)
        finally:
            await client.aclose()
    assert client.open == 0


async def follow(client: Client, peer: Peer, script: Script, steps: list[str]) -> None:
    if script.broken_at is not None and script.broken_at < script.head:
        with pytest.raises(HttpError) as failed:
            await client.send(request_to(peer))
        assert (failed.value.kind, failed.value.sent) == ("reset", True)
        return
    reply = await client.send(request_to(peer))
    got, failure = b"", ("reset", True, True)
    try:
        for step in steps:
            got += await STEPS[step](reply)
            assert script.delivered.startswith(got)
        if "close" not in steps:
            while data := await reply.more():
                got += data
            assert data == b""
    except HttpError as error:
        assert script.broken_at is not None or "close" in steps
        assert not reply.done
        failure = (error.kind, error.sent, error.answered)
        assert got == script.delivered or "close" in steps
    else:
        assert "close" in steps or (script.broken_at, reply.done, got) == (None, True, script.body)
    assert failure == ("reset", True, True)
    assert script.delivered.startswith(got)
    reply.close()


async def take(reply: HttpReply) -> bytes:
    return reply.take()


async def more(reply: HttpReply) -> bytes:
    return await reply.more(within=5) or b""


async def cancelled_more(reply: HttpReply) -> bytes:
    """Return the bytes if the call had finished before it was cancelled."""
    waiting = asyncio.ensure_future(reply.more())
    await asyncio.sleep(0)
    waiting.cancel()
    try:
        return await waiting or b""
    except asyncio.CancelledError:
        return b""


async def pause(_: HttpReply) -> bytes:
    await asyncio.sleep(0.001)
    return b""


async def close(reply: HttpReply) -> bytes:
    done = reply.done
    reply.close()
    assert reply.done == done
    return b""


STEPS = {"take": take, "more": more, "cancelled more": cancelled_more, "pause": pause, "close": close}


@pytest.mark.torture
@pytest.mark.parametrize("loop", [asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
@pytest.mark.parametrize("engine", ENGINES)
def test_any_reply_read_in_any_order_yields_what_was_sent_and_then_its_end(
    engine: str, loop: Callable[[], asyncio.AbstractEventLoop]
) -> None:
    with asyncio.Runner(loop_factory=loop) as runner:

        @settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=[HealthCheck.too_slow])
        @given(scripts(), st.lists(st.sampled_from(sorted(STEPS)), max_size=5))
        def check(script: Script, steps: list[str]) -> None:
            runner.run(play(engine, script, steps))

        check()

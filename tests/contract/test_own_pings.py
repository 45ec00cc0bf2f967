"""Pings of the gateway's own: only where the upstream is silent, and has not said all yet."""

from __future__ import annotations

import msgspec
import pytest

from bud_asgi.clock import Timing
from bud_asgi.protocol.sse import PING as PINGED
from bud_asgi.testing import Reply, sse
from contract.line import STREAM, Line, timed
from contract.quirks import BLOCK, PING, STREAMS, closed, ending, start, text

ENDED = {"all is said": STREAMS["a ping at once"], "it has failed": STREAMS["an error in the middle"]}


def test_the_first_ping_comes_after_fifteen_seconds() -> None:
    assert Timing().ping_after == 15.0


def test_there_are_none_where_the_upstream_pings(straight: Line) -> None:
    line = straight.reset()
    wire = start() + BLOCK + PING * 5 + text("Hi") + closed(0) + ending()
    pieces = (start() + BLOCK, *[PING] * 5, text("Hi") + closed(0) + ending())
    line.upstream.enqueue(Reply(body=pieces, delay=0.25))
    with timed(line, ping_after=1.0):
        assert line.request(STREAM).body == wire


@pytest.mark.parametrize("wire", ENDED.values(), ids=ENDED.keys())
def test_there_are_none_when_the_stream_has_ended(straight: Line, wire: bytes) -> None:
    line = straight.reset()
    line.upstream.enqueue(Reply(body=(wire,), end="hang"))
    with timed(line, ping_after=0.2, linger=0.6):
        answer = line.request(STREAM)
    assert answer.body == wire


def test_they_come_between_events_while_half_of_one_waits(straight: Line) -> None:
    line = straight.reset()
    wire = start() + BLOCK + text("half and half") + closed(0) + ending()
    half = len(start() + BLOCK) + 60
    line.upstream.enqueue(msgspec.structs.replace(sse(wire), stall=(half, 0.9)))
    with timed(line, ping_after=0.2):
        body = line.request(STREAM).body
    assert body.replace(PINGED, b"") == wire
    assert body.startswith(start() + BLOCK + PINGED)

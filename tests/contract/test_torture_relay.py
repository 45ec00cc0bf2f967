"""Streams that are cut anywhere, and pieces larger than what any buffer holds."""

from __future__ import annotations

import json

import pytest
from msgspec.structs import replace
from support.counts import count
from support.streams import parse, parse_as_the_sdk_does, whole_events

from bud_asgi.testing import Reply, eof_mid_event, sse
from contract.line import STREAM, Line
from contract.quirks import BLOCK, STREAMS, closed, ending, start, text

LETTERS = "é \u2028\u2029\u0085\x0b\x0c\x1c 漢字 😀 \ud7ff\U0010ffff"
WIRE = start() + BLOCK + text(LETTERS) + text("and on") + closed(0) + ending()
FIRST, BEHIND = WIRE.index("é".encode()), WIRE.index(b'"}', WIRE.index("é".encode()))
"""Where the letters begin and end, of which most are several bytes."""
ENDS = {"LF": WIRE, "CRLF": WIRE.replace(b"\n", b"\r\n"), "CR": WIRE.replace(b"\n", b"\r")}


@pytest.mark.torture
@pytest.mark.parametrize("wire", ENDS.values(), ids=ENDS.keys())
def test_a_stream_in_two_pieces_is_the_same_stream(straight: Line, wire: bytes) -> None:
    line = straight.reset()
    for first in range(1, len(wire), count(7, 1)):
        line.upstream.enqueue(sse(wire, chunk_sizes=[first]))
        assert line.request(STREAM).body == wire, first


@pytest.mark.torture
def test_a_stream_that_is_cut_in_a_data_line_ends_by_an_error_to_every_parser(straight: Line) -> None:
    line = straight.reset()
    whole = parse(WIRE)
    for position in range(FIRST - count(5, 80), BEHIND + 4):
        line.upstream.enqueue(eof_mid_event(position, sse(WIRE)))
        answer = line.request(STREAM)
        assert answer.body.startswith(whole_events(WIRE[:position]) + b"event: error\n")
        for events in (parse(answer.body), parse_as_the_sdk_does(answer.body)):
            name, data = events[-1]
            assert name == "error", position
            told = json.loads(data)
            assert (told["type"], told["error"]["type"]) == ("error", "api_error")
            assert [tuple(event) for event in events[:-1]] == whole[: len(events) - 1]


LARGE = {
    "a chunk of 2 MB": start()
    + BLOCK
    + text("all work and no play ") * (2_000_000 // len(text("all work and no play "))),
    "an event of 1 MB": start() + BLOCK + text("x" * (1 << 20)),
    "a comment of 1 MB": start() + BLOCK + b":" + b"x" * (1 << 20) + b"\n\n",
}


@pytest.mark.parametrize("head", LARGE.values(), ids=LARGE.keys())
def test_large_pieces_come_through(straight: Line, head: bytes) -> None:
    line = straight.reset()
    wire = head + closed(0) + ending(output_tokens=4321)
    line.upstream.enqueue(sse(wire))
    answer = line.request(STREAM)
    assert answer.body == wire
    usage = line.account_of(answer).usage
    assert usage is not None
    assert usage.output_tokens == 4321


def test_pieces_smaller_than_a_character_come_through(straight: Line) -> None:
    line = straight.reset()
    for wire in STREAMS.values():
        line.upstream.enqueue(replace(sse(wire, one_byte=True), segment=1))
        assert line.request(STREAM).body == wire


def test_a_trailing_piece_behind_the_end_is_passed_on_too(straight: Line) -> None:
    line = straight.reset()
    line.upstream.enqueue(Reply(body=(WIRE, b": that was all\n\n")))
    assert line.request(STREAM).body == WIRE + b": that was all\n\n"

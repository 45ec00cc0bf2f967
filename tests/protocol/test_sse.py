"""Server-sent events: whole events only, wherever the bytes are cut, and the accounting that is read from them."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Iterable
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.counts import examples
from support.streams import (
    ENVELOPE,
    PING,
    RECORDED,
    STOP,
    WHOLE,
    cut,
    delta,
    event,
    parse,
    parse_as_the_sdk_does,
    start,
    text,
    usage_by_json,
    whole_events,
    without_estimate,
)

from bud_asgi.protocol.sse import PING as OUR_PING
from bud_asgi.protocol.sse import Event, EventStream, StreamState, error_event, parse_event
from bud_asgi.protocol.usage import Usage


def parse_all(wire: bytes) -> list[Event]:
    """The events of a stream, by the parser of one event."""
    blocks = re.sub(rb"\r\n|\r", b"\n", whole_events(wire)).split(b"\n\n")
    return [event for block in blocks if (event := parse_event(block)) is not None]


STREAMS: dict[str, tuple[bytes, list[Event]]] = {
    "an event as the service writes it": (b"event: ping\ndata: {}\n\n", [Event(b"ping", b"{}")]),
    "carriage returns and line feeds": (b"event: ping\r\ndata: {}\r\n\r\n", [Event(b"ping", b"{}")]),
    "carriage returns alone": (b"event: ping\rdata: {}\r\r", [Event(b"ping", b"{}")]),
    "line ends of every kind": (
        b"event: a\r\ndata: 1\n\rdata: 2\r\r\ndata: 3\r\n\ndata: 4\n\r\n",
        [Event(b"a", b"1"), Event(b"", b"2"), Event(b"", b"3"), Event(b"", b"4")],
    ),
    "two events": (b"data: a\n\ndata: b\n\n", [Event(b"", b"a"), Event(b"", b"b")]),
    "data lines are joined": (b"data: a\ndata: b\n\n", [Event(b"", b"a\nb")]),
    "an empty data line counts": (b"data: a\ndata:\ndata\ndata: b\n\n", [Event(b"", b"a\n\n\nb")]),
    "empty data alone": (b"event: a\ndata:\n\n", [Event(b"a", b"")]),
    "one blank behind the colon is dropped, no more": (
        b"data:a\n\ndata:  b \n\n",
        [Event(b"", b"a"), Event(b"", b" b ")],
    ),
    "a comment is no event": (b": still here\n\n", []),
    "a comment within an event": (b"event: a\n: data: no\ndata: 1\n\n", [Event(b"a", b"1")]),
    "an event without data is none": (b"event: ping\n\n", []),
    "the last name counts": (b"event: a\nevent: b\ndata: 1\n\n", [Event(b"b", b"1")]),
    "a name does not outlast its event": (b"event: a\n\ndata: 1\n\n", [Event(b"", b"1")]),
    "fields that nobody knows": (b"id: 1\nretry: 5\ndatas: 2\nDATA: 3\ndata: 1\n\n", [Event(b"", b"1")]),
    "a colon in data": (b"data: a:b: c\n\n", [Event(b"", b"a:b: c")]),
    "cut off before its blank line": (b"event: ping\ndata: {}\n", []),
    "blank lines in a row": (
        b"\n\n\n\ndata: a\n\n\n\n\ndata: b\n\n",
        [Event(b"", b"a"), Event(b"", b"b")],
    ),
    "line breaks of Unicode are no line ends": (
        "data: a\u2028b\u2029c\u0085d\x0be\x0cf\x1cg\n\n".encode(),
        [Event(b"", "a\u2028b\u2029c\u0085d\x0be\x0cf\x1cg".encode())],
    ),
    "bytes that are no text": (b"data: \xff\x00\n\n", [Event(b"", b"\xff\x00")]),
    "nothing": (b"", []),
    "the old end": (b"data: [DONE]\n\n", [Event(b"", b"[DONE]")]),
}


@pytest.mark.parametrize(("wire", "expected"), STREAMS.values(), ids=STREAMS.keys())
def test_the_lines_of_an_event_are_parsed(wire: bytes, expected: list[Event]) -> None:
    assert parse_all(wire) == expected


@pytest.mark.parametrize("wire", [wire for wire, _ in STREAMS.values()], ids=STREAMS.keys())
def test_whole_events_leave_wherever_the_bytes_were_cut(wire: bytes) -> None:
    for first in range(len(wire) + 1):
        for second in range(first, len(wire) + 1):
            check_whole([wire[:first], wire[first:second], wire[second:]])
    check_whole(cut(wire, 1))


def check_whole(chunks: Iterable[bytes]) -> None:
    """Whatever was returned so far ends behind an event, and is all that could be returned."""
    stream, fed, returned = EventStream(), b"", b""
    for chunk in chunks:
        fed += chunk
        returned += stream.feed(chunk)
        assert fed.startswith(returned)
        # A ping of our own fits here: it is an event of its own for any reader, and changes no other.
        with_ping = parse(returned + OUR_PING + fed[len(returned) :], errors="replace")
        events = parse(fed, errors="replace")
        ours = ("ping", '{"type": "ping"}')
        assert [one for one in with_ping if one != ours] == [one for one in events if one != ours]
        assert parse(returned, errors="replace") == events


def test_an_empty_name_is_refused() -> None:
    assert parse_event(b"event:\ndata: 1") == Event(b"", b"1")


_lines = st.sampled_from(
    [b"data: a", b"data:b", b"data", b"event: x", b"event: message_stop", b": c", b"", b"", b"id: 1", b"error"]
)
_ends = st.sampled_from([b"\n", b"\r\n", b"\r"])


@pytest.mark.torture
@examples(50)
@given(lines=st.lists(st.tuples(_lines, _ends), max_size=20), cuts=st.lists(st.integers(0, 150), max_size=8))
def test_events_are_those_of_the_standard_wherever_the_bytes_are_cut(
    lines: list[tuple[bytes, bytes]], cuts: list[int]
) -> None:
    wire = b"".join(line + end for line, end in lines)
    edges = [0, *sorted(min(cut, len(wire)) for cut in cuts), len(wire)]
    check_whole([wire[a:b] for a, b in pairwise(edges)])


@pytest.mark.parametrize("end", [b"\n", b"\r\n", b"\r"])
def test_an_event_leaves_as_soon_as_it_is_whole(end: bytes) -> None:
    one = b"event: a" + end + b"data: 1" + end + end
    stream = EventStream()
    assert b"".join(stream.feed(byte) for byte in cut(one, 1)) == one
    assert stream.feed(b"event: b" + end + b"data: 2") == b""
    assert stream.feed(end) == b""
    assert stream.feed(end) == b"event: b" + end + b"data: 2" + end + end


@pytest.mark.parametrize("size", [1, 2, 3, 7, 50, 10_000])
@pytest.mark.parametrize("end", [b"\n", b"\r\n", b"\r"])
def test_an_event_over_the_limit_flows_as_it_arrives_and_the_next_one_is_observed(end: bytes, size: int) -> None:
    large = b"event: x\ndata: " + b"x" * 500 + b"\n\n"
    wire = (start(input_tokens=3) + large + delta(output_tokens=9) + large + STOP).replace(b"\n", end)
    stream, returned = EventStream(max_event=200), b""
    for chunk in cut(wire, size):
        returned += stream.feed(chunk)
        assert len(stream._held) <= 200
        if stream.partial:
            assert returned == wire[: len(returned)]
    assert returned == wire
    assert (stream.state, stream.usage, stream.partial) == (StreamState.COMPLETE, Usage(3, 9), False)


def test_an_event_is_held_up_to_the_limit() -> None:
    stream = EventStream(max_event=100)
    assert stream.feed(b"data: " + b"x" * 94) == b""
    assert not stream.partial
    assert stream.feed(b"x") == b"data: " + b"x" * 95
    assert stream.partial


@pytest.mark.parametrize("size", [1, 2, 3, 5, 8, 13, 100, 10_000])
def test_accounting_does_not_depend_on_the_cuts_where_texts_look_like_events(size: int) -> None:
    wire = start(input_tokens=1) + (text("words") * 3 + delta(output_tokens=1) + text("message_ error") + PING) * 20
    stream = observe(cut(wire + delta(output_tokens=77) + STOP, size))
    assert (stream.state, stream.usage) == (StreamState.COMPLETE, Usage(1, 77))


def test_many_words_that_look_like_events_are_read_in_linear_time() -> None:
    began = time.monotonic()
    for words in ("message_ ", "error ", "message_ error ", "err message"):
        stream = observe([start(), text(words * 30_000) * 20 + STOP])
        assert stream.state is StreamState.COMPLETE
        many = observe([start(), text(words) * 30_000 + STOP])
        assert many.state is StreamState.COMPLETE
    assert time.monotonic() - began < 10


@pytest.mark.parametrize("size", [16 << 10, 1 << 30])
def test_deltas_among_other_events_are_read_in_linear_time(size: int) -> None:
    began = time.monotonic()
    huge = text("x" * 3_000_000)
    for wire in (
        (text("a") + PING) * 10_000,
        (text("a") * 2 + PING) * 10_000,
        (text("a") * 40 + PING) * 500,
        (text("a") + PING) * 20 + huge + (text("a") + PING) * 20 + huge,
        (text("a") + b"\n" + text("b")) * 5000,
    ):
        assert observe(cut(start() + wire + STOP, size)).state is StreamState.COMPLETE
    assert time.monotonic() - began < 10


def fast(index: int, words: str, *, pad: int = 0) -> bytes:
    """A delta in the form of the service."""
    data = json.dumps({"type": "text_delta", "text": words}, separators=(",", ":"))
    return (
        f'event: content_block_delta\ndata: {{"type":"content_block_delta","index":{index},"delta":{data}'
        f"{' ' * pad}}}\n\n"
    ).encode()


_DELTA_WITH = fast(0, "a")[:-1]  # the blank line is missing, so another line fits
_any_events = st.one_of(
    st.builds(fast, st.integers(0, 1), st.text('a"\\\n é', max_size=9), pad=st.integers(0, 15)),
    st.builds(fast, st.just(0), st.just("word")).map(lambda event: event * 9),
    st.sampled_from(
        [
            PING,
            STOP,
            b": comment\n\n",
            b"\n",
            text("blanks"),
            start(input_tokens=7, output_tokens=1),
            delta(output_tokens=5),
            event("error", error=1),
            event("x", type_="message_stop"),
            b'data: {"type":"message_stop"}\n\n',
            b'event: x\ndata: {"type":"message\\u005fstop"}\n\n',
            b'event: x\ndata: {"type":"message\\u005fdelta",\ndata: "usage":{"output_tokens":9}}\n\n',
            b'event: content_block_delta\ndata: {"type":"message_stop"}\n\n',
            b"event: message_stop\n\n",
            _DELTA_WITH + b"event: error\n\n",
            _DELTA_WITH + b": comment\n\n",
            _DELTA_WITH[:-1] + b'\r\rdata: {"type":"message_stop"}\n\n',
            _DELTA_WITH.replace(b"a", b'a", "b": 1, "c": "message_stop') + b"\n",
        ]
    ),
)


def read_by_json(wire: bytes) -> tuple[StreamState, str | None, Usage]:
    """What is known of a stream behind its events, read one by one without the code under test."""
    state, error, usage = StreamState.WAITING, None, Usage()
    for name, data in parse(wire):
        try:
            fields = json.loads(data)
        except ValueError:
            fields = {}
        kind = "error" if name == "error" else fields.get("type") or name
        if kind == "error":
            error = data if error is None else error
            if state < StreamState.COMPLETE:
                state = StreamState.FAILED if state else StreamState.REFUSED
        elif kind != "ping":
            state = max(state, StreamState.OPEN)
            if kind == "message_stop" and state is StreamState.OPEN:
                state = StreamState.COMPLETE
            if kind == "message_start":
                usage = Usage(7, usage.output_tokens)
            if kind == "message_delta":
                usage = Usage(usage.input_tokens, max(usage.output_tokens or 0, fields["usage"]["output_tokens"]))
    return state, error, usage


@pytest.mark.torture
@examples(50, 3000)
@given(
    events=st.lists(_any_events, max_size=30),
    end=st.sampled_from([b"\n", b"\n", b"\r\n", b"\r"]),
    size=st.none() | st.sampled_from([1, 50, 130, 700, 1 << 20]),
)
def test_deltas_are_read_together_as_one_by_one(events: list[bytes], end: bytes, size: int | None) -> None:
    chunks = [one.replace(b"\n", end) for one in [fast(0, "first"), *events]]
    wire = b"".join(chunks)
    state, error, usage = read_by_json(wire)
    stream = observe(chunks if size is None else cut(wire, size))
    assert (stream.state, stream.error and stream.error.decode()) == (state, error)
    assert (stream.reported or Usage()) == usage
    assert stream.ended == (state >= StreamState.COMPLETE)


def observe(chunks: Iterable[bytes]) -> EventStream:
    stream = EventStream()
    for chunk in chunks:
        stream.feed(chunk)
    return stream


def seen(stream: EventStream) -> tuple[StreamState, bytes | None, Usage | None, bool]:
    return (stream.state, stream.error, without_estimate(stream.usage), stream.partial)


def without_names(wire: bytes) -> bytes:
    """A stream as some servers write it: `data:` lines alone."""
    return re.sub(rb"(?m)^event: .*\n", b"", wire)


@pytest.mark.parametrize("shape", [bytes, without_names], ids=["with names", "without names"])
def test_a_whole_stream_is_complete_and_its_usage_read_wherever_it_is_cut(shape: Callable[[bytes], bytes]) -> None:
    usage = Usage(12, 42, None, 3)
    assert usage == usage_by_json(WHOLE)
    wire = shape(WHOLE)
    expected = (StreamState.COMPLETE, None, usage, False)
    for at in range(len(wire) + 1):
        assert seen(observe([wire[:at], wire[at:]])) == expected
    for size in (1, 2, 3, 7, 100):
        assert seen(observe(cut(wire, size))) == expected


@pytest.mark.parametrize("end", [b"\r\n", b"\r"])
@pytest.mark.parametrize("size", [1, 2, 3, 7, 100, 100_000])
def test_a_stream_with_other_line_ends_is_observed_too(end: bytes, size: int) -> None:
    stream = observe(cut(WHOLE.replace(b"\n", end), size))
    assert (stream.state, stream.error, stream.usage) == (StreamState.COMPLETE, None, Usage(12, 42, None, 3))


OBSERVED: dict[str, tuple[bytes, StreamState, bytes | None]] = {
    "nothing": (b"", StreamState.WAITING, None),
    "pings alone have not begun": (PING * 3, StreamState.WAITING, None),
    "a comment has not begun": (b": hello\n\n", StreamState.WAITING, None),
    "half an event has not begun": (start()[:-1], StreamState.WAITING, None),
    "an event has begun": (start(), StreamState.OPEN, None),
    "an event that nobody knows has begun": (event("brand_new"), StreamState.OPEN, None),
    "the name of an event within a text is no event": (
        start() + text('message_stop\n\nevent: message_stop\ndata: {"type":"message_stop"}'),
        StreamState.OPEN,
        None,
    ),
    "a type within data is no event": (start() + event("x", type_="message_stop"), StreamState.OPEN, None),
    "a stop without its blank line is none": (start() + STOP[:-1], StreamState.OPEN, None),
    "a whole stream": (start() + STOP, StreamState.COMPLETE, None),
    "an error first is a refusal": (b"event: error\ndata: 1\n\n", StreamState.REFUSED, b"1"),
    "an error behind pings is a refusal": (PING + b"event: error\ndata: 1\n\n", StreamState.REFUSED, b"1"),
    "an error later is none": (start() + b"event: error\ndata: 1\n\n", StreamState.FAILED, b"1"),
    "of two errors the first counts": (
        b"event: error\ndata: 1\n\nevent: error\ndata: 2\n\n",
        StreamState.REFUSED,
        b"1",
    ),
    "an error within a text is none": (start() + text("event: error"), StreamState.OPEN, None),
    "an event without a name, of an unknown type, opens the stream": (b"data: 1\n\n", StreamState.OPEN, None),
    "a ping without a name does not": (b'data: {"type":"ping"}\n\n', StreamState.WAITING, None),
    "an error without a name is an error": (
        b'data: {"type":"error"}\n\n',
        StreamState.REFUSED,
        b'{"type":"error"}',
    ),
    "a stop without a name is a stop": (start() + b'data: {"type":"message_stop"}\n\n', StreamState.COMPLETE, None),
    "an error behind the stop changes nothing": (
        start() + STOP + event("error"),
        StreamState.COMPLETE,
        b'{"type": "error"}',
    ),
}


@pytest.mark.parametrize(("wire", "state", "error"), OBSERVED.values(), ids=OBSERVED.keys())
def test_the_state_of_a_stream_follows_its_events(wire: bytes, state: StreamState, error: bytes | None) -> None:
    for chunks in ([wire], *([wire[:at], wire[at:]] for at in range(len(wire))), list(cut(wire, 1))):
        stream = observe(chunks)
        assert (stream.state, stream.error) == (state, error)
        assert stream.ended == (state in {StreamState.COMPLETE, StreamState.FAILED, StreamState.REFUSED})


USAGES: dict[str, tuple[bytes, Usage | None]] = {
    "none told": (event("message_start", message={"id": "msg_1"}), None),
    "the start alone": (start(input_tokens=5, output_tokens=1), Usage(5, 1, estimated=True)),
    "later counts replace earlier ones": (
        start(input_tokens=5, output_tokens=1) + delta(output_tokens=7) + delta(output_tokens=9),
        Usage(5, 9, None, None),
    ),
    "a null is no count": (
        start(input_tokens=5, cache_read_input_tokens=2) + delta(input_tokens=None, output_tokens=0),
        Usage(5, 0, None, 2),
    ),
    "a count never shrinks": (
        start(input_tokens=1200, cache_read_input_tokens=90_000)
        + delta(input_tokens=0, cache_read_input_tokens=0, output_tokens=7)
        + delta(output_tokens=6),
        Usage(1200, 7, None, 90_000),
    ),
    "a zero is a count": (start(input_tokens=0) + text("word " * 40) + delta(output_tokens=0), Usage(0, 0)),
    "usage may come late": (
        event("message_start", message={"id": "msg_1"}) + delta(input_tokens=3, output_tokens=7),
        Usage(3, 7),
    ),
    "a delta without a count of the output is not final": (
        start(input_tokens=5, output_tokens=1) + text("x" * 36) + delta(input_tokens=6),
        Usage(6, 10, estimated=True),
    ),
    "content behind the final count": (
        start(input_tokens=5, output_tokens=1) + delta(output_tokens=7) + text("x" * 360) + STOP,
        Usage(5, 100, estimated=True),
    ),
    "a delta that can't be read is not final": (
        start(input_tokens=5, output_tokens=1) + text("x" * 36) + b"event: message_delta\ndata: {\n\n" + STOP,
        Usage(5, 10, estimated=True),
    ),
    "input may grow": (
        start(input_tokens=2679, output_tokens=3) + delta(input_tokens=10682, output_tokens=510),
        Usage(10682, 510, None, None),
    ),
    "all four": (
        start(input_tokens=1, output_tokens=2, cache_creation_input_tokens=3, cache_read_input_tokens=4, more={"a": 1}),
        Usage(1, 2, 3, 4, estimated=True),
    ),
    "a delta without a start": (delta(output_tokens=7), Usage(None, 7, None, None)),
    "a delta that can't be read changes nothing": (
        start(input_tokens=5) + b"event: message_delta\ndata: {\n\n",
        Usage(5, 0, estimated=True),
    ),
    "a start that can't be read tells nothing": (b"event: message_start\ndata: [\n\n", None),
    "a number may be a string": (start(input_tokens="5") + delta(output_tokens="1e1"), Usage(5, 10)),
}


@pytest.mark.parametrize(("wire", "usage"), USAGES.values(), ids=USAGES.keys())
@pytest.mark.parametrize("size", [1, 5, 100_000])
def test_the_usage_of_a_stream_is_merged(wire: bytes, usage: Usage | None, size: int) -> None:
    assert observe(cut(wire, size)).usage == usage


@pytest.mark.parametrize(("end", "size"), [(b"\n", 1), (b"\r\n", 100_000), (b"\r", 100_000), (b"\r\n", 7)])
def test_a_stream_cut_at_any_byte_ends_with_whole_events_and_one_error(end: bytes, size: int) -> None:
    wire = WHOLE.replace(b"\n", end)
    for at in range(len(wire)):
        stream = EventStream()
        sent = b"".join(stream.feed(chunk) for chunk in cut(wire[:at], size)) + error_event(ENVELOPE)
        *whole, (name, data) = parse(sent)
        assert whole == parse(wire[:at], errors="replace")
        assert (name, data) == ("error", ENVELOPE.decode())
        assert parse_as_the_sdk_does(sent)[-1] == (name, data)


def test_our_ping_is_one_of_the_service() -> None:
    assert parse(OUR_PING) == [("ping", '{"type": "ping"}')]
    assert json.loads(parse(OUR_PING)[0][1]) == {"type": "ping"}


@pytest.mark.parametrize("wire", [WHOLE, *RECORDED.values()], ids=["a whole stream", *RECORDED])
def test_a_recorded_stream_is_complete_and_its_usage_read(wire: bytes) -> None:
    expected = seen(observe([wire]))
    ended_by_error = parse(wire)[-1][0] == "error"
    assert (expected[0] is StreamState.COMPLETE) is not ended_by_error
    assert (expected[1] is not None) is ended_by_error
    assert expected[2] == usage_by_json(wire)
    for size in (1, 7, 100):
        assert seen(observe(cut(wire, size))) == expected
    check_whole(cut(wire, 997))

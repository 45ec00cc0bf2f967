"""Event streams: the events do not depend on the cuts, the observer on no chunk, and every cut stream can be mended."""

from __future__ import annotations

import json
from collections.abc import Iterable
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bud_asgi.protocol.sse import PING as OUR_PING
from bud_asgi.protocol.sse import Event, EventReader, StreamObserver
from bud_asgi.protocol.usage import Usage
from protocol.counts import examples
from protocol.streams import (
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
)

STREAMS: dict[str, tuple[bytes, list[Event]]] = {
    "an event as the service writes it": (b"event: ping\ndata: {}\n\n", [Event(b"ping", b"{}")]),
    "carriage returns and line feeds": (b"event: ping\r\ndata: {}\r\n\r\n", [Event(b"ping", b"{}")]),
    "carriage returns alone": (b"event: ping\rdata: {}\r\r", [Event(b"ping", b"{}")]),
    "line ends of every kind": (
        b"event: a\r\ndata: 1\n\rdata: 2\r\r\ndata: 3\r\n\ndata: 4\n\r\n",
        [Event(b"a", b"1"), Event(b"message", b"2"), Event(b"message", b"3"), Event(b"message", b"4")],
    ),
    "two events": (b"data: a\n\ndata: b\n\n", [Event(b"message", b"a"), Event(b"message", b"b")]),
    "data lines are joined": (b"data: a\ndata: b\n\n", [Event(b"message", b"a\nb")]),
    "an empty data line counts": (b"data: a\ndata:\ndata\ndata: b\n\n", [Event(b"message", b"a\n\n\nb")]),
    "empty data alone": (b"event: a\ndata:\n\n", [Event(b"a", b"")]),
    "one blank behind the colon is dropped, no more": (
        b"data:a\n\ndata:  b \n\n",
        [Event(b"message", b"a"), Event(b"message", b" b ")],
    ),
    "a comment is no event": (b": still here\n\n", []),
    "a comment within an event": (b"event: a\n: data: no\ndata: 1\n\n", [Event(b"a", b"1")]),
    "an event without data is none": (b"event: ping\n\n", []),
    "the last name counts": (b"event: a\nevent: b\ndata: 1\n\n", [Event(b"b", b"1")]),
    "a name does not outlast its event": (b"event: a\n\ndata: 1\n\n", [Event(b"message", b"1")]),
    "fields that nobody knows": (b"id: 1\nretry: 5\ndatas: 2\nDATA: 3\ndata: 1\n\n", [Event(b"message", b"1")]),
    "a colon in data": (b"data: a:b: c\n\n", [Event(b"message", b"a:b: c")]),
    "cut off before its blank line": (b"event: ping\ndata: {}\n", []),
    "blank lines in a row": (
        b"\n\n\n\ndata: a\n\n\n\n\ndata: b\n\n",
        [Event(b"message", b"a"), Event(b"message", b"b")],
    ),
    "line breaks of Unicode are no line ends": (
        "data: a\u2028b\u2029c\u0085d\x0be\x0cf\x1cg\n\n".encode(),
        [Event(b"message", "a\u2028b\u2029c\u0085d\x0be\x0cf\x1cg".encode())],
    ),
    "bytes that are no text": (b"data: \xff\x00\n\n", [Event(b"message", b"\xff\x00")]),
    "nothing": (b"", []),
    "the old end": (b"data: [DONE]\n\n", [Event(b"message", b"[DONE]")]),
}


@pytest.mark.parametrize(("wire", "expected"), STREAMS.values(), ids=STREAMS.keys())
def test_events_do_not_depend_on_how_the_bytes_were_cut(wire: bytes, expected: list[Event]) -> None:
    for first in range(len(wire) + 1):
        for second in range(first, len(wire) + 1):
            reader = EventReader()
            parts = (wire[:first], wire[first:second], wire[second:])
            assert [event for part in parts for event in reader.feed(part)] == expected
    reader = EventReader()
    assert [event for byte in cut(wire, 1) for event in reader.feed(byte)] == expected


def test_an_empty_name_is_no_name() -> None:
    assert EventReader().feed(b"event:\ndata: 1\n\n") == [Event(b"message", b"1")]


_lines = st.sampled_from(
    [b"data: a", b"data:b", b"data", b"event: x", b"event: message_stop", b": c", b"", b"", b"id: 1", b"error"]
)
_ends = st.sampled_from([b"\n", b"\r\n", b"\r"])


@pytest.mark.torture
@examples(400)
@given(lines=st.lists(st.tuples(_lines, _ends), max_size=20), cuts=st.lists(st.integers(0, 150), max_size=8))
def test_events_are_those_of_the_standard_wherever_the_bytes_are_cut(
    lines: list[tuple[bytes, bytes]], cuts: list[int]
) -> None:
    wire = b"".join(line + end for line, end in lines)
    edges = [0, *sorted(min(cut, len(wire)) for cut in cuts), len(wire)]
    reader = EventReader()
    events = [event for a, b in pairwise(edges) for event in reader.feed(wire[a:b])]
    expected = parse(wire)
    assert [(event.name.decode(), event.data.decode()) for event in events] == expected


@pytest.mark.parametrize("size", [1, 2, 3, 7, 50])
def test_an_event_over_the_limit_is_passed_over_and_the_next_one_is_seen(size: int) -> None:
    wire = b"data: a\n\n" + b"data: " + b"x" * 500 + b"\n\n" + b"event: b\ndata: 1\n\n" + b"data: c\n\n"
    for end in (b"\n", b"\r\n", b"\r"):
        reader = EventReader(max_event=100)
        events = [event for chunk in cut(wire.replace(b"\n", end), size) for event in reader.feed(chunk)]
        assert events == [Event(b"message", b"a"), Event(b"b", b"1"), Event(b"message", b"c")]
        assert len(reader._pending) <= 4  # pyright: ignore[reportPrivateUsage] - nothing large may be kept


def test_two_events_over_the_limit_are_both_passed_over() -> None:
    reader = EventReader(max_event=100)
    large = b"data: " + b"x" * 200
    assert reader.feed(large) == []
    assert reader.feed(b"\n\n" + large) == []
    assert reader.feed(b"x" * 300) == []
    assert reader.feed(b"\n\ndata: a\n\n") == [Event(b"message", b"a")]


def test_nothing_large_is_kept_of_an_event_that_is_passed_over() -> None:
    reader = EventReader(max_event=100)
    for chunk in cut(b"data: " + b"x" * 1_000_000, 1000):
        reader.feed(chunk)
        assert len(reader._pending) <= 1100  # pyright: ignore[reportPrivateUsage]
    assert not reader.between_events


def test_a_large_event_without_rare_words_is_passed_over_too_and_its_successor_seen() -> None:
    reader = EventReader(max_event=100)
    reader.rare_only = True
    reader.feed(b"event: x\ndata: 1\n\n")
    for chunk in cut(b"data: " + b"x" * 500, 50):
        assert reader.feed(chunk) == []
    assert reader.feed(b"\n") == []
    assert reader.feed(b"\nevent: message_stop\ndata: {}\n\n") == [Event(b"message_stop", b"{}")]


@pytest.mark.parametrize("size", [1, 2, 3, 5, 8, 13, 100, 10_000])
def test_the_rare_events_are_seen_whatever_the_cuts_when_only_they_are_looked_for(size: int) -> None:
    wire = (text("words") * 3 + delta(output_tokens=1) + text("message_ error") + PING) * 20 + STOP
    rare = [Event(name.encode(), data.encode()) for name, data in parse(wire) if name.startswith("message_")]
    reader = EventReader()
    reader.rare_only = True
    events = [event for chunk in cut(wire, size) for event in reader.feed(chunk)]
    assert [event for event in events if event.name.startswith(b"message_")] == rare
    assert reader.between_events


@pytest.mark.parametrize("end", [b"\n", b"\r\n", b"\r"])
def test_between_events_is_only_where_an_event_has_ended(end: bytes) -> None:
    wire = (b"event: a\ndata: 1\n\n" * 2 + text("x") + STOP).replace(b"\n", end)
    reader = EventReader()
    for at, byte in enumerate(cut(wire, 1), 1):
        reader.feed(byte)
        ended = wire[:at].endswith(end + end)
        assert reader.between_events is ended or (reader.between_events and wire[:at].endswith(b"\r\n\r"))


def observe(chunks: Iterable[bytes]) -> StreamObserver:
    observer = StreamObserver()
    for chunk in chunks:
        observer.feed(chunk)
    return observer


def seen(observer: StreamObserver) -> tuple[bool, bool, bytes | None, bool, Usage | None, bool, bool]:
    return (
        observer.begun,
        observer.finished,
        observer.error,
        observer.refused,
        observer.usage,
        observer.ended,
        observer.between_events,
    )


def test_a_whole_stream_is_finished_and_its_usage_told_wherever_it_is_cut() -> None:
    usage = Usage(12, 42, None, 3)
    assert usage == usage_by_json(WHOLE)
    expected = (True, True, None, False, usage, True, True)
    for at in range(len(WHOLE) + 1):
        assert seen(observe([WHOLE[:at], WHOLE[at:]])) == expected
    for size in (1, 2, 3, 7, 100):
        assert seen(observe(cut(WHOLE, size))) == expected


@pytest.mark.parametrize("end", [b"\r\n", b"\r"])
@pytest.mark.parametrize("size", [1, 2, 3, 7, 100, 100_000])
def test_a_stream_with_other_line_ends_is_observed_too(end: bytes, size: int) -> None:
    observer = observe(cut(WHOLE.replace(b"\n", end), size))
    assert (observer.finished, observer.error, observer.usage) == (True, None, Usage(12, 42, None, 3))


OBSERVED: dict[str, tuple[bytes, tuple[bool, bool, bytes | None, bool]]] = {
    "nothing": (b"", (False, False, None, False)),
    "pings alone have not begun": (PING * 3, (False, False, None, False)),
    "a comment has not begun": (b": hello\n\n", (False, False, None, False)),
    "half an event has not begun": (start()[:-1], (False, False, None, False)),
    "an event has begun": (start(), (True, False, None, False)),
    "an event that nobody knows has begun": (event("brand_new"), (True, False, None, False)),
    "the name of an event within a text is no event": (
        start() + text('message_stop\n\nevent: message_stop\ndata: {"type":"message_stop"}'),
        (True, False, None, False),
    ),
    "a type within data is no event": (start() + event("x", type_="message_stop"), (True, False, None, False)),
    "a stop without its blank line is none": (start() + STOP[:-1], (True, False, None, False)),
    "a whole stream": (start() + STOP, (True, True, None, False)),
    "an error first is a refusal": (b"event: error\ndata: 1\n\n", (True, False, b"1", True)),
    "an error behind pings is a refusal": (PING + b"event: error\ndata: 1\n\n", (True, False, b"1", True)),
    "an error later is none": (start() + b"event: error\ndata: 1\n\n", (True, False, b"1", False)),
    "of two errors the first counts": (
        b"event: error\ndata: 1\n\nevent: error\ndata: 2\n\n",
        (True, False, b"1", True),
    ),
    "an error within a text is none": (start() + text("event: error"), (True, False, None, False)),
}


@pytest.mark.parametrize(("wire", "expected"), OBSERVED.values(), ids=OBSERVED.keys())
def test_the_observer_knows_how_a_stream_stands(wire: bytes, expected: tuple[bool, bool, bytes | None, bool]) -> None:
    for chunks in ([wire], *([wire[:at], wire[at:]] for at in range(len(wire))), list(cut(wire, 1))):
        observer = observe(chunks)
        assert (observer.begun, observer.finished, observer.error, observer.refused) == expected
        assert observer.ended == (observer.finished or observer.error is not None)


USAGES: dict[str, tuple[bytes, Usage | None]] = {
    "none told": (event("message_start", message={"id": "msg_1"}), None),
    "the start alone": (start(input_tokens=5, output_tokens=1), Usage(5, 1, None, None)),
    "later counts replace earlier ones": (
        start(input_tokens=5, output_tokens=1) + delta(output_tokens=7) + delta(output_tokens=9),
        Usage(5, 9, None, None),
    ),
    "a null is no count": (
        start(input_tokens=5, cache_read_input_tokens=2) + delta(input_tokens=None, output_tokens=0),
        Usage(5, 0, None, 2),
    ),
    "a later zero is a count": (start(input_tokens=5) + delta(input_tokens=0), Usage(0, None, None, None)),
    "input may grow": (
        start(input_tokens=2679, output_tokens=3) + delta(input_tokens=10682, output_tokens=510),
        Usage(10682, 510, None, None),
    ),
    "all four": (
        start(input_tokens=1, output_tokens=2, cache_creation_input_tokens=3, cache_read_input_tokens=4, more={"a": 1}),
        Usage(1, 2, 3, 4),
    ),
    "a delta without a start": (delta(output_tokens=7), Usage(None, 7, None, None)),
    "a delta that can't be read changes nothing": (
        start(input_tokens=5) + b"event: message_delta\ndata: {\n\n",
        Usage(5, None, None, None),
    ),
    "a start that can't be read tells nothing": (b"event: message_start\ndata: [\n\n", None),
    "counts that are no numbers tell nothing": (start(input_tokens="5"), None),
}


@pytest.mark.parametrize(("wire", "usage"), USAGES.values(), ids=USAGES.keys())
@pytest.mark.parametrize("size", [1, 5, 100_000])
def test_the_usage_of_a_stream_is_merged(wire: bytes, usage: Usage | None, size: int) -> None:
    assert observe(cut(wire, size)).usage == usage


def check_mended(sent: bytes, mended: bytes) -> None:
    """What was sent and its mend are one stream of whole events, the last of which is the error."""
    whole = parse(sent, errors="replace")
    events = parse(sent + mended)
    assert events[: len(whole)] == whole
    assert len(events) == len(whole) + 1
    name, data = events[-1]
    assert name == "error"
    assert data.split("\n")[-1] == ENVELOPE.decode()
    assert parse_as_the_sdk_does(sent + mended)[-1] == (name, data)


@pytest.mark.parametrize(("end", "size"), [(b"\n", 1), (b"\r\n", 100_000), (b"\r", 100_000), (b"\r\n", 7)])
def test_a_stream_cut_at_any_byte_can_be_ended_with_an_error(end: bytes, size: int) -> None:
    wire = WHOLE.replace(b"\n", end)
    for at in range(len(wire)):
        sent = wire[:at]
        check_mended(sent, observe(cut(sent, size)).failure(ENVELOPE))


def test_a_stream_cut_within_an_event_that_is_passed_over_can_be_ended_with_an_error() -> None:
    observer = StreamObserver()
    observer._reader = EventReader(max_event=50)  # pyright: ignore[reportPrivateUsage]
    sent = start(input_tokens=1)
    observer.feed(sent)
    for chunk in cut(b"event: x\ndata: " + "€😀é".encode() * 40, 1):
        observer.feed(chunk)
        sent += chunk
        check_mended(sent, observer.failure(ENVELOPE))


def test_between_events_a_failure_is_the_error_alone() -> None:
    assert observe([start()]).failure(b"{}") == b"event: error\ndata: {}\n\n"
    assert StreamObserver().failure(b"{}") == b"event: error\ndata: {}\n\n"


@pytest.mark.torture
@examples()
@given(words=st.text(min_size=1, max_size=4), at=st.integers(1, 20))
def test_any_character_that_was_cut_is_made_whole(words: str, at: int) -> None:
    sent = start() + b'event: content_block_delta\ndata: {"text":"' + words.replace("\r", "").replace("\n", "").encode()
    sent = sent[: len(sent) - min(at, len(words.encode()))]
    check_mended(sent, observe([sent]).failure(ENVELOPE))


def test_our_ping_is_one_of_the_service() -> None:
    assert parse(OUR_PING) == [("ping", '{"type": "ping"}')]
    assert json.loads(parse(OUR_PING)[0][1]) == {"type": "ping"}


@pytest.mark.parametrize("wire", [WHOLE, *RECORDED.values()], ids=["a whole stream", *RECORDED])
def test_a_recorded_stream_is_finished_and_its_usage_told(wire: bytes) -> None:
    expected = seen(observe([wire]))
    ended_by_error = parse(wire)[-1][0] == "error"
    assert expected[1] is not ended_by_error
    assert (expected[2] is not None) is ended_by_error
    assert expected[4] == usage_by_json(wire)
    for size in (1, 7, 100):
        assert seen(observe(cut(wire, size))) == expected

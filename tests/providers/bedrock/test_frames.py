"""AWS event stream messages: decoded as in botocore, however the bytes are cut and whatever is damaged."""

from __future__ import annotations

import struct
import time
from collections.abc import Callable, Iterable
from itertools import pairwise
from typing import Any

import pytest
from botocore.eventstream import (
    ChecksumMismatch,
    DuplicateHeader,
    EventStreamBuffer,
    InvalidHeadersLength,
    InvalidPayloadLength,
    ParserError,
)
from hypothesis import given
from hypothesis import strategies as st
from support.counts import examples

from bud_asgi.providers.bedrock.frames import (
    MAX_HEADERS,
    MAX_PAYLOAD,
    EventStreamDecoder,
    EventStreamError,
    EventStreamHeaders,
    EventStreamMessages,
    HeaderValue,
    parse_headers,
)
from bud_asgi.testing.bedrock.frames import header, message, message_from_block, with_checksum

CHUNK = {":event-type": "chunk", ":content-type": "application/json", ":message-type": "event"}
EXCEPTION = {
    ":exception-type": "throttlingException",
    ":content-type": "application/json",
    ":message-type": "exception",
}
ERROR = {":message-type": "error", ":error-code": "InternalFailure", ":error-message": "Es tut uns leid, größtenteils."}
STREAM = message(CHUNK, b'{"bytes":"e30=","p":"ab"}') + message(ERROR) + message(EXCEPTION, b'{"message":"Slow."}')

REASONS: dict[type[ParserError], str] = {
    ChecksumMismatch: "checksum",
    InvalidHeadersLength: "length",
    InvalidPayloadLength: "length",
    DuplicateHeader: "headers",
}
Outcome = tuple[list[tuple[HeaderValue | None, bytes]], str | None]
"""The decoded messages (event type and payload), and the reason of the error after them."""


def headers_of(found: Any) -> dict[str, HeaderValue]:
    return found.headers  # the stubs have the wrong type


def by_botocore(chunks: Iterable[bytes]) -> Outcome:
    buffer = EventStreamBuffer()
    came: list[tuple[HeaderValue | None, bytes]] = []
    try:
        for chunk in chunks:
            buffer.add_data(chunk)
            came.extend((headers_of(found).get(":event-type"), found.payload) for found in buffer)
    except ParserError as error:
        return came, REASONS[type(error)]
    return came, None


def by_us(chunks: Iterable[bytes]) -> Outcome:
    decoder = EventStreamDecoder()
    came: list[EventStreamMessages] = []
    reason = None
    try:
        for chunk in chunks:
            came += decoder.feed(chunk)
    except EventStreamError as error:
        came += error.messages
        reason = error.reason
    return [(headers.event_type, payload) for headers, payload in each(came)], reason


def each(messages: Iterable[EventStreamMessages]) -> list[tuple[EventStreamHeaders, bytes]]:
    return [(one.headers, payload) for one in messages for payload in one.payloads]


def decoded(wire: bytes) -> list[tuple[EventStreamHeaders, bytes]]:
    return each(EventStreamDecoder().feed(wire))


def prelude(total: int, headers_length: int) -> bytes:
    return with_checksum(struct.pack(">II", total, headers_length))


def test_the_empty_message_is_that_of_the_specification() -> None:
    wire = bytes.fromhex("00000010 00000000 05c248eb 7d98c8ff")
    assert message_from_block(b"", b"") == wire
    assert decoded(wire) == [(EventStreamHeaders(), b"")]


def test_the_headers_identify_a_message() -> None:
    chunk, error, exception = decoded(STREAM)
    assert chunk == (
        EventStreamHeaders(message_type="event", event_type="chunk", content_type="application/json"),
        b'{"bytes":"e30=","p":"ab"}',
    )
    assert error[0] == EventStreamHeaders(
        message_type="error", error_code="InternalFailure", error_message="Es tut uns leid, größtenteils."
    )
    assert error[1] == b""
    assert exception[0].exception_type == "throttlingException"
    assert exception[0].message_type == "exception"


def test_messages_do_not_depend_on_how_the_bytes_were_cut() -> None:
    whole = decoded(STREAM)
    assert len(whole) == 3
    for first in range(0, len(STREAM) + 1, 3):
        for second in range(first, len(STREAM) + 1):
            decoder = EventStreamDecoder()
            parts = (STREAM[:first], STREAM[first:second], STREAM[second:])
            assert [found for part in parts for found in each(decoder.feed(part))] == whole
            decoder.finish()
    decoder = EventStreamDecoder()
    assert [found for n in range(len(STREAM)) for found in each(decoder.feed(STREAM[n : n + 1]))] == whole


def test_a_message_is_returned_with_its_last_byte() -> None:
    decoder = EventStreamDecoder()
    one = message(CHUNK, b"{}")
    assert decoder.feed(one[:-1]) == []
    assert [payload for _, payload in each(decoder.feed(one[-1:] + one[:5]))] == [b"{}"]
    assert [payload for _, payload in each(decoder.feed(one[5:]))] == [b"{}"]


def counted(value: bytes) -> bytes:
    return len(value).to_bytes(2, "big") + value


def ranged(bits: int) -> st.SearchStrategy[int]:
    return st.integers(-(1 << bits - 1), (1 << bits - 1) - 1)


_text = st.text(st.characters(exclude_categories=("Cs",)), max_size=20)
_values: st.SearchStrategy[tuple[bytes, bytes, HeaderValue]] = st.one_of(
    st.just((b"\x00", b"", True)),
    st.just((b"\x01", b"", False)),
    ranged(8).map(lambda n: (b"\x02", struct.pack(">b", n), n)),
    ranged(16).map(lambda n: (b"\x03", struct.pack(">h", n), n)),
    ranged(32).map(lambda n: (b"\x04", struct.pack(">i", n), n)),
    ranged(64).map(lambda n: (b"\x05", struct.pack(">q", n), n)),
    st.binary(max_size=40).map(lambda b: (b"\x06", counted(b), b)),
    _text.map(lambda s: (b"\x07", counted(s.encode()), s)),
    ranged(64).map(lambda n: (b"\x08", struct.pack(">q", n), n)),
    st.binary(min_size=16, max_size=16).map(lambda b: (b"\x09", b, b)),
)
_headers = st.dictionaries(_text.filter(lambda name: not name.startswith(":")), _values, max_size=5)


def block_of(headers: dict[str, tuple[bytes, bytes, HeaderValue]]) -> bytes:
    return b"".join(header(name, kind, written) for name, (kind, written, _) in headers.items())


@pytest.mark.torture
@examples(50)
@given(headers=_headers)
def test_every_type_of_header_value_is_decoded_as_in_botocore(
    headers: dict[str, tuple[bytes, bytes, HeaderValue]],
) -> None:
    block = block_of(headers)
    buffer = EventStreamBuffer()
    buffer.add_data(message_from_block(block, b""))
    expected = headers_of(buffer.next())
    read = parse_headers(block)
    assert read == expected == {name: value for name, (_, _, value) in headers.items()}
    assert [type(value) for value in read.values()] == [type(value) for value in expected.values()]


@pytest.mark.torture
@examples(50)
@given(
    messages=st.lists(st.tuples(_headers, st.booleans(), st.binary(max_size=300)), max_size=6),
    cuts=st.lists(st.integers(0, 1500), max_size=8),
)
def test_messages_are_decoded_as_in_botocore_however_the_bytes_are_cut(
    messages: list[tuple[dict[str, tuple[bytes, bytes, HeaderValue]], bool, bytes]], cuts: list[int]
) -> None:
    known = header(":event-type", b"\x07", counted(b"chunk"))
    stream = b"".join(
        message_from_block((known if is_known else b"") + block_of(headers), payload)
        for headers, is_known, payload in messages
    )
    edges = [0, *sorted(min(cut, len(stream)) for cut in cuts), len(stream)]
    chunks = [stream[a:b] for a, b in pairwise(edges)]
    assert by_us(chunks) == by_botocore(chunks)
    assert by_us(chunks) == ([("chunk" if is_known else None, payload) for _, is_known, payload in messages], None)


def test_every_flipped_bit_is_detected_where_botocore_detects_it() -> None:
    stream = message(CHUNK, b"{}") + message(ERROR)
    for n in range(len(stream)):
        for bit in range(8):
            broken = bytearray(stream)
            broken[n] ^= 1 << bit
            came, reason = by_us([bytes(broken)])
            assert (came, reason) == by_botocore([bytes(broken)])
            assert reason == "checksum"


@pytest.mark.torture
@examples(40)
@given(
    at=st.integers(0, len(STREAM)),
    gone=st.integers(0, 40),
    instead=st.binary(max_size=40),
    size=st.integers(1, len(STREAM)),
)
def test_missing_changed_and_added_bytes_are_detected_as_in_botocore(
    at: int, gone: int, instead: bytes, size: int
) -> None:
    broken = STREAM[:at] + instead + STREAM[at + gone :] + message(CHUNK, b"{}" * 50)
    chunks = [broken[n : n + size] for n in range(0, len(broken), size)]
    assert by_us(chunks) == by_botocore(chunks)


def test_messages_before_an_invalid_one_are_kept_and_none_are_decoded_after_it() -> None:
    whole = decoded(STREAM)
    decoder = EventStreamDecoder()
    with pytest.raises(EventStreamError, match="wrong message checksum") as first:
        decoder.feed(STREAM + STREAM[:-1] + b"\x00" + STREAM)
    assert each(first.value.messages) == [*whole, *whole[:2]]
    for again in (lambda: decoder.feed(STREAM), decoder.finish):
        with pytest.raises(EventStreamError, match="wrong message checksum") as later:
            again()
        assert (later.value.reason, later.value.messages) == ("checksum", [])


def test_a_stream_that_ends_inside_a_message_is_truncated() -> None:
    edges = [0]
    for found in (message(CHUNK, b'{"bytes":"e30=","p":"ab"}'), message(ERROR)):
        edges.append(edges[-1] + len(found))
    for length in range(len(STREAM)):
        decoder = EventStreamDecoder()
        decoder.feed(STREAM[:length])
        if length in edges:
            decoder.finish()
            continue
        with pytest.raises(EventStreamError, match="the stream ended after") as raised:
            decoder.finish()
        assert raised.value.reason == "truncated"


@pytest.mark.parametrize(
    ("total", "headers_length"),
    [
        (MAX_HEADERS + 17, MAX_HEADERS + 1),
        (MAX_PAYLOAD + 17, 0),
        (MAX_PAYLOAD + 117, 100),
        (0xFFFFFFFF, 0),
        (0xFFFFFFFF, 0xFFFFFFFF),
    ],
)
def test_a_length_above_the_maximum_is_rejected_with_the_prelude(total: int, headers_length: int) -> None:
    wire = prelude(total, headers_length)
    assert by_us([wire]) == by_botocore([wire]) == ([], "length")
    assert by_us([wire[:11], wire[11:]]) == ([], "length")


@pytest.mark.parametrize(("total", "headers_length"), [(0, 0), (15, 0), (16, 1), (99, 84), (4, 0xFFFF)])
def test_a_length_too_small_for_its_headers_is_rejected(total: int, headers_length: int) -> None:
    assert by_us([prelude(total, headers_length) + bytes(200)]) == ([], "length")


def test_the_largest_allowed_message_is_decoded() -> None:
    sizes = (65_000, 65_000, MAX_HEADERS - 130_000 - 3 * len(header("a", b"\x06", counted(b""))))
    block = b"".join(header(name, b"\x06", counted(bytes(size))) for name, size in zip("abc", sizes, strict=True))
    assert len(block) == MAX_HEADERS
    wire = message_from_block(block, bytes(MAX_PAYLOAD))
    assert by_us([wire]) == by_botocore([wire]) == ([(None, bytes(MAX_PAYLOAD))], None)


HEADERS: dict[str, tuple[bytes, str]] = {
    "truncated name": (b"\x05ab", "or an unknown header type"),
    "no type": (b"\x02ab", "or an unknown header type"),
    "no value": (b"\x02ab\x04", "or an unknown header type"),
    "truncated integer": (b"\x02ab\x05\x00\x00", "or an unknown header type"),
    "truncated length of a string": (b"\x02ab\x07\x00", "truncated headers$"),
    "truncated string": (b"\x02ab\x07\x00\x05ab", "truncated headers$"),
    "truncated bytes": (b"\x02ab\x06\x00\x05ab", "truncated headers$"),
    "truncated UUID": (b"\x02ab\x09" + bytes(15), "truncated headers$"),
    "unknown type": (b"\x02ab\x0a", "or an unknown header type"),
    "highest type number": (b"\x02ab\xff", "or an unknown header type"),
    "duplicate": (b"\x01a\x00\x01a\x01", "duplicate header 'a'"),
    "name is not UTF-8": (b"\x01\xff\x00", "not UTF-8"),
    "string is not UTF-8": (b"\x01a\x07\x00\x01\xff", "not UTF-8"),
    "known header of the wrong type": (header(":event-type", b"\x04", bytes(4)), "wrong type"),
}


@pytest.mark.parametrize(("block", "problem"), HEADERS.values(), ids=HEADERS.keys())
def test_invalid_headers_end_the_stream(block: bytes, problem: str) -> None:
    decoder = EventStreamDecoder()
    with pytest.raises(EventStreamError, match=problem) as raised:
        decoder.feed(message(CHUNK, b"{}") + message_from_block(block, b"{}"))
    assert raised.value.reason == "headers"
    assert [payload for _, payload in each(raised.value.messages)] == [b"{}"]


def test_successive_messages_with_the_same_headers_come_together() -> None:
    decoder = EventStreamDecoder()
    one, two, three = message(CHUNK, b"1"), message(CHUNK, b"2"), message(CHUNK, b"3")
    first, second, third = decoder.feed(one + two + message(EXCEPTION) + three)
    assert (first.payloads, second.payloads, third.payloads) == ([b"1", b"2"], [b""], [b"3"])
    assert second.headers.exception_type == "throttlingException"
    assert third.headers == first.headers
    (again,) = decoder.feed(one)
    assert again.headers is third.headers


def test_the_layouts_that_are_remembered_are_bounded() -> None:
    sizes = range(1_200)
    assert len(decoded(b"".join(message(CHUNK, bytes(size)) for size in sizes))) == len(sizes)
    decoder = EventStreamDecoder()
    for size in sizes:
        decoder.feed(message(CHUNK, bytes(size)))
    assert 0 < len(decoder._layouts) <= 512
    for size in (0, 0, 1, 2):
        assert decoder.feed(message({**CHUNK, "long": "x" * 300}, bytes(size)))
        assert len(decoder._layouts) == 1, "a large block of headers is forgotten with its last message"


def test_a_message_is_verified_even_if_the_same_one_has_come_before() -> None:
    known = message(CHUNK, b"{}")
    for n in range(len(known)):
        broken = bytearray(known)
        broken[n] ^= 1
        with pytest.raises(EventStreamError, match="checksum") as raised:
            EventStreamDecoder().feed(known + bytes(broken) + known)
        assert [payload for _, payload in each(raised.value.messages)] == [b"{}"]


def spent(work: Callable[[], object]) -> float:
    """Return the CPU seconds of the fastest of three runs."""
    times: list[float] = []
    for _ in range(3):
        started = time.process_time()
        work()
        times.append(time.process_time() - started)
    return min(times)


def test_a_large_message_byte_by_byte_is_not_copied_for_each_byte() -> None:
    """Copying the buffer for each byte would copy 80 GB."""
    wire = message(CHUNK, bytes(400_000))

    def feed() -> None:
        decoder = EventStreamDecoder()
        assert sum(len(each(decoder.feed(wire[n : n + 1]))) for n in range(len(wire))) == 1

    assert spent(feed) < 3


def test_many_messages_in_one_chunk_are_not_copied_for_each_message() -> None:
    """Copying the rest for each message would copy 50 GB."""
    batch = message(CHUNK, bytes(2000)) * 7000
    assert len(decoded(batch)) == 7000
    assert spent(lambda: decoded(batch)) < 1


def test_it_needs_at_most_a_third_of_the_time_of_botocore() -> None:
    batch = message(CHUNK, b'{"bytes":"%b","p":"abcdef"}' % (b"eyJ0" * 30)) * 20

    def theirs() -> None:
        for _ in range(20):
            assert len(by_botocore([batch])[0]) == 20

    def ours() -> None:
        for _ in range(20):
            assert len(decoded(batch)) == 20

    assert spent(ours) < spent(theirs) / 3

"""Parsing replies: framing, limits, and what is refused; without a loop."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest

from bud_asgi.http import Header
from bud_asgi.http.fields import lower_names
from bud_asgi.http.parser import MAX_OVERHEAD, InvalidResponseError, ReplyParser

HEAD = b"HTTP/1.1 200 OK\r\n"
CHUNKED = HEAD + b"transfer-encoding: chunked\r\n\r\n"


@dataclass
class Record:
    """What a parser fills, with the parser."""

    parser: ReplyParser = field(default_factory=ReplyParser)
    status: int = 0
    headers: list[Header] = field(default_factory=list)
    has_head: bool = False
    done: bool = False
    chunks: list[bytes] = field(default_factory=list)
    buffered: int = 0

    def take(self) -> bytes:
        data = b"".join(self.chunks)
        self.chunks.clear()
        self.buffered = 0
        return data


def feed(wire: bytes, *, cuts: int = 0, is_head: bool = False, parser: ReplyParser | None = None) -> Record:
    reply = Record(parser or ReplyParser())
    reply.parser.begin(reply, is_head=is_head)
    step = cuts or max(len(wire), 1)
    for start in range(0, len(wire), step):
        reply.parser.feed(memoryview(wire)[start : start + step])
    return reply


WHOLE = {
    "content-length": (HEAD + b"Content-Length: 5\r\n\r\nhello", 200, b"hello", True),
    "no body by length": (HEAD + b"content-length: 0\r\n\r\n", 200, b"", True),
    "chunked": (CHUNKED + b"3\r\nhel\r\n2\r\nlo\r\n0\r\n\r\n", 200, b"hello", True),
    "chunked, in any letter case": (
        HEAD + b"Transfer-Encoding: Chunked \r\n\r\n1\r\na\r\n0\r\n\r\n",
        200,
        b"a",
        True,
    ),
    "chunk extensions and trailers are dropped": (CHUNKED + b"1;a=b\r\nx\r\n0\r\nx-t: 1\r\n\r\n", 200, b"x", True),
    "interim replies are consumed": (
        b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early\r\nlink: a\r\n\r\n" + HEAD + b"content-length: 1\r\n\r\na",
        200,
        b"a",
        True,
    ),
    "an interim reply may have a content-length": (
        b"HTTP/1.1 103 Early\r\ncontent-length: 9\r\n\r\n" + CHUNKED + b"0\r\n\r\n",
        200,
        b"",
        True,
    ),
    "204 has no body": (b"HTTP/1.1 204 No Content\r\n\r\n", 204, b"", True),
    "304 has no body, whatever its content-length": (b"HTTP/1.1 304 x\r\ncontent-length: 9\r\n\r\n", 304, b"", True),
    "connection: close": (HEAD + b"connection: close\r\ncontent-length: 1\r\n\r\na", 200, b"a", False),
    "HTTP/1.0 closes": (b"HTTP/1.0 200 OK\r\ncontent-length: 1\r\n\r\na", 200, b"a", False),
    "HTTP/1.0 may persist": (
        b"HTTP/1.0 200 OK\r\nconnection: keep-alive\r\ncontent-length: 1\r\n\r\na",
        200,
        b"a",
        True,
    ),
    "no reason phrase": (b"HTTP/1.1 529 \r\ncontent-length: 0\r\n\r\n", 529, b"", True),
}


@pytest.mark.parametrize(("wire", "status", "body", "persistent"), WHOLE.values(), ids=WHOLE.keys())
def test_a_whole_reply_is_complete_at_its_last_byte_however_it_was_split(
    wire: bytes, status: int, body: bytes, persistent: bool
) -> None:
    for size in range(1, len(wire) + 1):
        reply = feed(wire, cuts=size)
        assert (reply.status, reply.take(), reply.done) == (status, body, True)
        assert (reply.parser.persistent, reply.parser.trailing_data) == (persistent, False)
    for cut in range(len(wire)):
        assert not feed(wire[:cut]).done


def test_one_parser_parses_the_replies_of_a_connection_one_after_the_other() -> None:
    parser = ReplyParser()
    earlier: list[tuple[Record, bytes]] = []
    for wire, status, body, persistent in WHOLE.values():
        for size in (len(wire), 1, 7) if persistent else ():
            reply = feed(wire, cuts=size, parser=parser)
            assert (reply.status, reply.done, parser.any_received) == (status, True, True)
            assert (parser.persistent, parser.trailing_data) == (True, False)
            parser.release()
            earlier.append((reply, body))
    for reply, body in earlier:
        assert reply.take() == body


def test_every_split_of_a_chunked_reply_gives_the_same_bytes() -> None:
    wire = CHUNKED + b"".join(b"%x;e\r\n%s\r\n" % (n, b"d" * n) for n in (1, 15, 16, 40)) + b"0\r\nt: v\r\n\r\n"
    for first in range(len(wire)):
        reply = feed(wire[:first])
        reply.parser.feed(memoryview(wire)[first:])
        assert reply.take() == b"d" * 72
        assert reply.done


def test_header_names_are_lower_case_in_order_with_values_as_they_came() -> None:
    reply = feed(HEAD + b"X-B:  Two\t words \r\nx-a:\r\nX-b: \xff\r\ncontent-length: 0\r\n\r\n")
    assert reply.headers == [(b"x-b", b"Two\t words"), (b"x-a", b""), (b"x-b", b"\xff"), (b"content-length", b"0")]


def test_the_reply_to_head_is_complete_after_its_head_and_its_connection_is_not_reused() -> None:
    reply = feed(HEAD + b"content-length: 5\r\n\r\n", is_head=True)
    assert reply.done
    assert reply.parser.trailing_data


def test_only_a_body_without_framing_ends_with_the_input() -> None:
    assert feed(HEAD + b"\r\nabc").parser.end()
    assert not feed(HEAD + b"content-length: 4\r\n\r\nabc").parser.end()
    assert not feed(CHUNKED + b"3\r\nabc\r\n").parser.end()
    assert not feed(HEAD).parser.end()
    assert not feed(b"HTTP/1.1 100 Continue\r\n\r\n").parser.end()
    assert not feed(b"").parser.end()


TRAILING = {
    "a second reply": HEAD + b"content-length: 0\r\n\r\n",
    "rubbish": b"rubbish",
    "one byte": b"H",
}


@pytest.mark.parametrize("extra", TRAILING.values(), ids=TRAILING.keys())
def test_bytes_after_a_complete_reply_are_trailing_data_and_the_reply_stays_readable(extra: bytes) -> None:
    reply = feed(HEAD + b"content-length: 2\r\n\r\nok" + extra)
    assert reply.done
    assert reply.parser.trailing_data
    assert (reply.status, reply.take()) == (200, b"ok")


REFUSED = {
    "text that is not HTTP": b"SSH-2.0-OpenSSH_9.6\r\n",
    "an error page without a head": b"<html>busy</html>",
    "RTSP": b"RTSP/1.0 200 OK\r\ncontent-length: 0\r\n\r\n",
    "HTTP/2.0": b"HTTP/2.0 200 OK\r\ncontent-length: 0\r\n\r\n",
    "HTTP/0.9": b"HTTP/0.9 200 OK\r\ncontent-length: 0\r\n\r\n",
    "a status below 100": b"HTTP/1.1 099 x\r\ncontent-length: 0\r\n\r\n",
    "a status of four digits": b"HTTP/1.1 2000 x\r\n\r\n",
    "bare line feeds": b"HTTP/1.1 200 OK\ncontent-length: 0\n\n",
    "two equal lengths": HEAD + b"content-length: 1\r\ncontent-length: 1\r\n\r\na",
    "two different lengths": HEAD + b"content-length: 1\r\ncontent-length: 2\r\n\r\nab",
    "a list of lengths": HEAD + b"content-length: 1, 1\r\n\r\na",
    "a signed length": HEAD + b"content-length: +1\r\n\r\na",
    "length, then chunked": HEAD + b"content-length: 1\r\ntransfer-encoding: chunked\r\n\r\n",
    "chunked, then length": HEAD + b"transfer-encoding: chunked\r\ncontent-length: 1\r\n\r\n",
    "gzip as transfer-encoding": HEAD + b"transfer-encoding: gzip\r\n\r\n",
    "gzip, chunked": HEAD + b"transfer-encoding: gzip, chunked\r\n\r\n",
    "chunked twice": HEAD + b"transfer-encoding: chunked\r\ntransfer-encoding: chunked\r\n\r\n",
    "chunked, identity": HEAD + b"transfer-encoding: chunked, identity\r\n\r\n",
    "a space before the colon": HEAD + b"content-length : 1\r\n\r\na",
    "a folded header": HEAD + b"x: a\r\n b\r\n\r\n",
    "a nameless header": HEAD + b": a\r\n\r\n",
    "a control character in a value": HEAD + b"x: a\x01b\r\n\r\n",
    "a zero in a value": HEAD + b"x: a\x00b\r\n\r\n",
    "a delete in a value": HEAD + b"x: a\x7fb\r\n\r\n",
    "a vertical tab in a value": HEAD + b"x: a\x0b\r\n\r\n",
    "a form feed in a value": HEAD + b"x: a\x0c\r\n\r\n",
    "a carriage return in a value": HEAD + b"x: a\rb\r\n\r\n",
    "an unrequested upgrade": b"HTTP/1.1 101 x\r\nupgrade: h2c\r\nconnection: upgrade\r\n\r\n",
    "101 without upgrade": b"HTTP/1.1 101 x\r\n\r\n",
    "a chunk size that is not a number": CHUNKED + b"zz\r\n",
    "a chunk size past 64 bits": CHUNKED + b"1ffffffffffffffff\r\n",
    "a chunk longer than its size": CHUNKED + b"1\r\nabc\r\n0\r\n\r\n",
    "a space after the chunk size": CHUNKED + b"1 \r\na\r\n",
    "a chunk size ended by a bare line feed": CHUNKED + b"1\na\n0\n\n",
    "rubbish after an interim reply": b"HTTP/1.1 100 x\r\n\r\nrubbish",
}


@pytest.mark.parametrize("wire", REFUSED.values(), ids=REFUSED.keys())
@pytest.mark.parametrize("cuts", [0, 1])
def test_invalid_or_ambiguous_replies_are_refused(wire: bytes, cuts: int) -> None:
    with pytest.raises(InvalidResponseError):
        feed(wire, cuts=cuts)


ENDLESS = {
    "a head of 40 KB": (HEAD, b"x-pad: " + b"a" * 1000 + b"\r\n", 40),
    "an endless header line": (HEAD + b"x: ", b"a" * 1000, 100),
    "an endless header name": (HEAD, b"a" * 1000, 100),
    "an endless reason": (b"HTTP/1.1 200 ", b"a" * 1000, 100),
    "endless interim replies": (b"", b"HTTP/1.1 103 x\r\n\r\n", 4000),
    "an endless chunk extension": (CHUNKED + b"1;", b"a" * 1000, 200),
    "large trailers": (CHUNKED + b"1\r\na\r\n0\r\n", b"x-t: " + b"a" * 1000 + b"\r\n", 200),
    "one large trailer": (CHUNKED + b"1\r\na\r\n0\r\nx: ", b"a" * 1000, 200),
    "many leading zeros of a chunk size": (CHUNKED, b"0" * 1000, 200),
}


@pytest.mark.parametrize(("begin", "more", "times"), ENDLESS.values(), ids=ENDLESS.keys())
@pytest.mark.parametrize("cuts", [1000, 64 << 10])
def test_endless_input_is_refused_after_a_bounded_number_of_bytes(
    begin: bytes, more: bytes, times: int, cuts: int
) -> None:
    wire = begin + more * times
    with pytest.raises(InvalidResponseError):
        feed(wire, cuts=cuts)
    # Below the limit it is accepted; at most the limit and one more read are ever parsed.
    assert not feed(wire[: MAX_OVERHEAD // 2], cuts=cuts).done
    with pytest.raises(InvalidResponseError):
        feed(wire[: 2 * MAX_OVERHEAD + cuts], cuts=cuts)


def test_a_head_just_within_the_limit_is_parsed_from_one_read_with_its_body() -> None:
    head = HEAD + b"content-length: 100000\r\nx: "
    head += b"a" * (MAX_OVERHEAD - len(head) - 4) + b"\r\n\r\n"
    assert len(head) == MAX_OVERHEAD
    reply = feed(head + b"b" * 100_000)
    assert reply.done
    assert len(reply.take()) == 100_000
    with pytest.raises(InvalidResponseError):
        feed(head.replace(b"x: ", b"xy: ") + b"b" * 100_000)


def test_tiny_chunks_count_with_their_memory_overhead() -> None:
    reply = feed(CHUNKED + b"2\r\nab\r\n" * 1000)
    assert reply.buffered > 60_000
    assert len(reply.take()) == 2000


def test_replies_share_the_names_of_their_headers_and_few_short_ones_are_remembered() -> None:
    lower_names.clear()
    one, other = (feed(HEAD + b"X-Name: %b\r\ncontent-length: 0\r\n\r\n" % value) for value in (b"a", b"b"))
    assert one.headers[0] == (b"x-name", b"a")
    assert one.headers[0][0] is other.headers[0][0]
    for number in range(3000):
        feed(HEAD + b"X-%d: secret\r\nX-%b: secret\r\ncontent-length: 0\r\n\r\n" % (number, b"long" * 20))
    assert len(lower_names) <= 1024
    assert all(len(name) <= 64 for name in lower_names)
    assert "secret" not in repr(lower_names)
    lower_names.clear()

"""Requests as bytes on a socket: chunked in any way, in pieces of any size, with headers in any spelling."""

from __future__ import annotations

import re
import socket

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.calls import KEY, UPSTREAM_KEY
from support.counts import examples

from contract.line import PLAIN, Line, body

WIDE = body(padding="\u00e9" * 3000)
REQUEST = b"POST /llm/v1/messages HTTP/1.1\r\nhost: gateway\r\nconnection: close\r\ncontent-type: application/json\r\n"
PROOF = b"x-api-key: " + KEY.encode() + b"\r\n"
VERSION = b"anthropic-version: 2023-06-01\r\n"


def _exchange(line: Line, pieces: list[bytes]) -> tuple[int, bytes]:
    """Send the pieces, each by itself; the status and the rest of what came until the server closed."""
    url = httpx.URL(line.here.host_url)
    with socket.create_connection((url.host, url.port or 80), timeout=30) as peer:
        peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        received = b""
        try:
            for piece in pieces:
                peer.sendall(piece)
            while chunk := peer.recv(65536):
                received += chunk
        except ConnectionError:
            pass  # it has said no, and closed
    head, _, rest = received.partition(b"\r\n\r\n")
    told = re.match(rb"HTTP/1\.1 (\d{3}) ", head)
    assert told, received
    return int(told[1]), rest


def _cut(content: bytes, sizes: list[int]) -> list[bytes]:
    pieces: list[bytes] = []
    for size in sizes:
        pieces.append(content[:size])
        content = content[size:]
    return [piece for piece in (*pieces, content) if piece]


_sizes = st.lists(st.sampled_from([1, 2, 3, 7, 64, 1000, 4096, 5000]), max_size=12)


@pytest.mark.torture
@examples(30, 3000)
@given(
    chunks=_sizes, writes=_sizes, upper=st.booleans(), extra=st.sampled_from([b"", b";a", b';a="b c"']), data=st.data()
)
def test_a_chunked_body_is_the_same_body(
    straight: Line, chunks: list[int], writes: list[int], upper: bool, extra: bytes, data: st.DataObject
) -> None:
    line = straight.reset()
    size = "%X" if upper else "%04x"
    coded = b"".join((size % len(c)).encode() + extra + b"\r\n" + c + b"\r\n" for c in _cut(WIDE, chunks))
    end = data.draw(st.sampled_from([b"0\r\n\r\n", b"000\r\n\r\n", b"0\r\nx-trailer: 1\r\n\r\n"]))
    wire = REQUEST + PROOF + VERSION + b"transfer-encoding: chunked\r\n\r\n" + coded + end
    status, rest = _exchange(line, _cut(wire, writes))
    assert status == 200, rest
    assert line.the_received().body == WIDE


@pytest.mark.torture
@examples(20, 3000)
@given(writes=_sizes)
def test_a_body_in_pieces_is_the_same_body(straight: Line, writes: list[int]) -> None:
    line = straight.reset()
    wire = REQUEST + PROOF + VERSION + b"content-length: %d\r\n\r\n" % len(WIDE) + WIDE
    status, rest = _exchange(line, _cut(wire, writes))
    assert status == 200, rest
    assert line.the_received().body == WIDE


FORWARDED = {b"anthropic-version", b"anthropic-beta", b"anthropic-x"}
OURS = {
    *(b"host", b"accept", b"accept-encoding", b"content-type", b"user-agent", b"content-length", b"x-api-key"),
    b"bud-hops",
}
_names = st.sampled_from(
    [
        b"anthropic-beta",
        b"Anthropic-Beta",
        b"ANTHROPIC-X",
        b"anthropic-version",
        b"Cookie",
        b"x-forwarded-for",
        b"TE",
        b"Via",
    ]
) | st.from_regex(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,12}", fullmatch=True)
_printable = st.binary(max_size=12).map(lambda raw: bytes(0x20 + byte % 0x5F for byte in raw))
_values = (_printable | st.binary(max_size=6)).map(lambda value: value.strip(b" \t"))
_KEPT_OUT = re.compile(
    rb"(?i)x-api-key|authorization|content-length|transfer-encoding|content-encoding|expect|upgrade|connection|host"
)


@pytest.mark.torture
@examples(40, 8000)
@given(lines=st.lists(st.tuples(_names.filter(lambda name: not _KEPT_OUT.fullmatch(name)), _values), max_size=4))
def test_headers_of_every_kind_are_taken_or_refused(straight: Line, lines: list[tuple[bytes, bytes]]) -> None:
    """None is let through that was not meant to be, and none makes another of itself."""
    line = straight.reset()
    more = b"".join(b"%b: %b\r\n" % each for each in lines)
    wire = REQUEST + PROOF + VERSION + more + b"content-length: %d\r\n\r\n" % len(PLAIN) + PLAIN
    status, rest = _exchange(line, [wire])
    assert status in {200, 400}, rest
    if status == 400:
        assert not line.received
        return
    seen = line.the_received()
    assert seen.body == PLAIN
    sent = [(name.lower(), value) for name, value in seen.headers]
    assert len({name for name, _ in sent}) == len(sent)
    assert {name for name, _ in sent} <= OURS | {name for name, _ in sent if name.startswith(b"anthropic-")}
    assert seen.values("x-api-key") == [UPSTREAM_KEY.encode()]
    if b"\r" not in more.replace(b"\r\n", b"") and b"\n" not in more.replace(b"\r\n", b""):
        betas = [value for name, value in lines if name.lower() == b"anthropic-beta"]
        assert seen.header("anthropic-beta") == (b",".join(betas) if betas else None)


INJECTIONS = [
    b"\r\nx-injected: 1",
    b"\nx-injected: 1",
    b"\rx-injected: 1",
    b"\r\n\r\nGET / HTTP/1.1",
    b"\x00",
    b"\x85",
    b"\xe2\x80\xa8",
    b"\x7f",
    b"\r\n folded",
]


@pytest.mark.parametrize("name", [b"anthropic-beta", b"anthropic-version", b"anthropic-x", b"x-api-key"])
@pytest.mark.parametrize("injection", INJECTIONS)
def test_nothing_is_smuggled_in_a_header(straight: Line, name: bytes, injection: bytes) -> None:
    line = straight.reset()
    rest = b"".join(each for each in (PROOF, VERSION) if not each.startswith(name))
    value = KEY.encode() if name == b"x-api-key" else b"2023-06-01"
    wire = REQUEST + rest + b"%b: %b%b\r\ncontent-length: %d\r\n\r\n" % (name, value, injection, len(PLAIN)) + PLAIN
    status, _ = _exchange(line, [wire])
    assert status < 500
    for seen in line.received:
        assert seen.header("x-injected") is None
        assert all(0x20 <= byte < 0x7F for value in seen.headers for byte in value[1])


@pytest.mark.parametrize("blank", [b" ", b"\t", b" \t "], ids=["a space", "a tab", "both"])
def test_blanks_behind_a_value_are_no_part_of_it(straight: Line, blank: bytes) -> None:
    """RFC 9110, 5.5: not of a credential, a version or a list of betas either, whatever the server hands on."""
    line = straight.reset()
    lines = [PROOF, VERSION, b"anthropic-beta: a-1\r\n"]
    more = b"".join(each.replace(b"\r\n", blank + b"\r\n") for each in lines)
    wire = REQUEST + more + b"content-length: %d\r\n\r\n" % len(PLAIN) + PLAIN
    status, rest = _exchange(line, [wire])
    assert status == 200, rest
    assert line.the_received().header("anthropic-beta") == b"a-1"

"""How a request is encoded, and what is refused before a connection is used."""

from __future__ import annotations

import pytest
from msgspec.structs import replace
from peer import OK, Peer, PeerConnection, read, reply_with, request_to

from bud_asgi.http import Engine, Header, HeaderBlock, HttpRequest, Origin, header_block
from bud_asgi.http.fields import known_names
from bud_asgi.http.wire import MAX_JOINED_BODY, MAX_WRITE, known_targets, request_head, write_batches

ORIGIN = Origin("api.example", 80)


def test_a_head_is_encoded_unchanged_with_the_engines_fields() -> None:
    request = HttpRequest(ORIGIN, b"POST", b"/v1?a=%2F&b", [(b"x-a", b"1"), (b"x-b", b"")], [b"ab", memoryview(b"cde")])
    assert request_head(request) == (
        b"POST /v1?a=%2F&b HTTP/1.1\r\nhost: api.example\r\nx-a: 1\r\nx-b: \r\ncontent-length: 5\r\n\r\n"
    )


@pytest.mark.parametrize(
    ("host", "port", "expected"),
    [("a.example", 8080, b"a.example:8080"), ("::1", 80, b"[::1]"), ("::1", 81, b"[::1]:81")],
)
def test_the_host_field_contains_the_port_unless_it_is_the_scheme_s_default(
    host: str, port: int, expected: bytes
) -> None:
    origin = Origin(host, port)
    for _ in range(2):
        head = request_head(HttpRequest(origin, b"GET", b"/", []))
        assert head == b"GET / HTTP/1.1\r\nhost: " + expected + b"\r\n\r\n"
    assert replace(origin, port=82).authority.endswith(b":82")
    assert repr(origin) == f"Origin(host={host!r}, port={port}, tls=None)"
    with pytest.raises(AttributeError):
        origin.authority = b"b.example"  # pyright: ignore[reportAttributeAccessIssue]


def test_a_post_without_a_body_has_a_content_length() -> None:
    assert b"content-length: 0\r\n" in request_head(HttpRequest(ORIGIN, b"POST", b"/", []))


INJECTED: dict[str, tuple[bytes, bytes, list[Header]]] = {
    "a line break in the target": (b"GET", b"/a\r\nx: y", []),
    "a space in the target": (b"GET", b"/a HTTP/1.1", []),
    "a tab in the target": (b"GET", b"/a\tb", []),
    "a zero in the target": (b"GET", b"/a\x00", []),
    "a raw byte in the target": (b"GET", b"/\xff", []),
    "no target": (b"GET", b"", []),
    "a space in the method": (b"GET /", b"/", []),
    "no method": (b"", b"/", []),
    "a line break in a value": (b"GET", b"/", [(b"x", b"a\r\ny: b")]),
    "a bare line feed in a value": (b"GET", b"/", [(b"x", b"a\nb")]),
    "a carriage return in a value": (b"GET", b"/", [(b"x", b"a\r")]),
    "a zero in a value": (b"GET", b"/", [(b"x", b"a\x00")]),
    "a line break in a name": (b"GET", b"/", [(b"x: 1\r\ny", b"a")]),
    "a colon in a name": (b"GET", b"/", [(b"x:", b"a")]),
    "a space in a name": (b"GET", b"/", [(b"x ", b"a")]),
    "no name": (b"GET", b"/", [(b"", b"a")]),
    "a content-length": (b"GET", b"/", [(b"Content-Length", b"1")]),
    "a transfer-encoding": (b"GET", b"/", [(b"transfer-encoding", b"chunked")]),
    "a host": (b"GET", b"/", [(b"host", b"a")]),
}


@pytest.mark.parametrize(("method", "target", "headers"), INJECTED.values(), ids=INJECTED.keys())
async def test_injection_is_refused_before_a_connection_is_used(
    engine: Engine, method: bytes, target: bytes, headers: list[Header]
) -> None:
    async with Peer(reply_with(OK)) as peer:
        with pytest.raises(ValueError, match=r"."):
            await engine.send(HttpRequest(peer.origin, method, target, headers))
        assert (engine.open, peer.connections) == (0, [])


def test_the_error_for_an_invalid_value_contains_the_header_s_name_only() -> None:
    with pytest.raises(ValueError, match="x-api-key") as refused:
        request_head(HttpRequest(ORIGIN, b"GET", b"/", [(b"x-a", b"b"), (b"x-api-key", b"sk-secret\n")]))
    assert "sk-secret" not in str(refused.value)


FORMS = {
    "a list": [(b"x-a", b"1"), (b"x-b", b"2")],
    "a tuple": ((b"x-a", b"1"), (b"x-b", b"2")),
    "a block": header_block([(b"x-a", b"1"), (b"x-b", b"2")]),
}


@pytest.mark.parametrize("first", FORMS.values(), ids=FORMS.keys())
@pytest.mark.parametrize("more", FORMS.values(), ids=FORMS.keys())
def test_no_line_is_lost_whichever_form_headers_have(
    first: list[Header] | HeaderBlock, more: list[Header] | HeaderBlock
) -> None:
    request = HttpRequest(ORIGIN, b"GET", b"/", first)
    longer = request.with_headers(more).with_headers([(b"x-c", b"3")])
    assert dict(longer.headers) == {b"x-a": b"1", b"x-b": b"2", b"x-c": b"3"}
    assert tuple(request.headers) == tuple(first)
    assert request_head(longer).endswith(b"x-a: 1\r\nx-b: 2\r\nx-a: 1\r\nx-b: 2\r\nx-c: 3\r\n\r\n")


@pytest.mark.parametrize("value", [b"", b": ", b"a: b", b"a:b", b" \t ", b"\xff", b"a:"])
def test_the_lines_of_a_block_are_those_that_it_was_made_of(value: bytes) -> None:
    lines = ((b"x-a", value), (b"x-b", b""), (b"x-a", value))
    assert header_block(lines).lines == lines


@pytest.mark.parametrize("more", FORMS.values(), ids=FORMS.keys())
def test_a_block_is_added_to_another(more: list[Header] | HeaderBlock) -> None:
    first = header_block([(b"x-c", b"3")])
    assert first + header_block(more) == header_block([*first, *more])


@pytest.mark.parametrize("headers", [each[2] for each in INJECTED.values() if each[2]])
def test_a_block_is_checked_when_it_is_made_and_when_it_is_added_to(headers: list[Header]) -> None:
    with pytest.raises(ValueError, match=r"."):
        header_block(headers)
    for first in FORMS.values():
        with pytest.raises(ValueError, match=r"."):
            HttpRequest(ORIGIN, b"GET", b"/", first).with_headers(headers)


def test_a_block_shows_its_names_only() -> None:
    block = header_block([(b"accept", b"text/plain"), (b"x-api-key", b"sk-secret")])
    assert repr(block) == "HeaderBlock(accept, x-api-key)"
    assert "sk-secret" not in f"{block} {HttpRequest(ORIGIN, b'GET', b'/', block)!r}"


def test_an_invalid_name_or_target_is_refused_each_time() -> None:
    for _ in range(3):
        with pytest.raises(ValueError, match="not a token"):
            header_block([(b"a b", b"")])
        with pytest.raises(ValueError, match="target"):
            request_head(HttpRequest(ORIGIN, b"GET", b"/a b", []))


def test_the_names_and_targets_that_are_remembered_are_few_and_short() -> None:
    for number in range(3000):
        path = b"/%d" % number + b"x" * (number % 2 * 1000)
        request = HttpRequest(ORIGIN, b"GET", path, [(b"x-%d" % number + b"x" * (number % 2 * 1000), b"")])
        assert request_head(request).startswith(b"GET " + path + b" HTTP/1.1")
    assert sum(map(len, known_names)) <= 1024 * 64
    assert sum(map(len, known_targets)) <= 256 * 256


def test_a_small_body_is_joined_to_its_head_and_a_large_one_is_not_copied() -> None:
    assert list(write_batches(b"head", b"x" * MAX_JOINED_BODY)) == [[b"head" + b"x" * MAX_JOINED_BODY]]
    large = bytes(range(256)) * (3 * MAX_WRITE // 256)
    written = list(write_batches(b"head", [b"ab", memoryview(large)]))
    assert b"".join(b"".join(batch) for batch in written) == b"head" + b"ab" + large
    assert max(sum(map(len, batch)) for batch in written) <= MAX_WRITE + 4
    assert all(isinstance(part, memoryview) and part.obj is large for batch in written[1:-1] for part in batch)


@pytest.mark.parametrize("size", [0, 1, MAX_JOINED_BODY, MAX_JOINED_BODY + 1, MAX_WRITE, MAX_WRITE + 1, 5_000_000])
async def test_a_body_of_any_size_arrives_whole(engine: Engine, size: int) -> None:
    body = bytes(i % 251 for i in range(1000)) * (size // 1000 + 1)
    body = body[:size]
    got: list[bytes] = []

    async def script(connection: PeerConnection) -> None:
        while True:
            got.append(await connection.request())
            await connection.send(OK)

    async with Peer(script) as peer:
        for buffers in (body, [body[:3], memoryview(body)[3:]]):
            reply = await engine.send(request_to(peer, body=buffers))
            assert await read(reply) == b"ok"
            assert got.pop().partition(b"\r\n\r\n")[2] == body
        assert (engine.open, engine.idle) == (1, 1)

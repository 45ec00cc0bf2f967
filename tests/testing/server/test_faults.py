"""Each fault sends the bytes that its docstring promises."""

import gzip
import json
import time
from collections.abc import AsyncIterator

import pytest
from support.waiting import until_still

from bud_asgi.testing import (
    Reply,
    StandIn,
    big_stream,
    close_after,
    close_on_reuse,
    cut_before_message_stop,
    empty,
    endless_1xx,
    endless_headers,
    eof_before_head,
    eof_mid_event,
    error_first_event,
    error_mid_stream,
    garbage_chunks,
    gzip_unasked,
    hang,
    hang_mid_event,
    html,
    huge_line,
    json_body,
    late,
    one_byte_a_second,
    one_byte_per_segment,
    raw,
    redirect,
    reset_after_head,
    reset_before_head,
    reset_mid_event,
    short_content_length,
    sse,
    stall,
    surplus,
    text,
    thinking,
    tool_use,
)
from testing.raw_client import Ended, ask, connect, unchunked, wire
from testing.stream_grammar import events_of, message_of, padding_of

STREAM = wire(stream=True)


@pytest.fixture
async def upstream() -> AsyncIterator[StandIn]:
    async with StandIn() as upstream:
        yield upstream


@pytest.mark.parametrize(
    "reply", [None, thinking("Hm. So.", "Yes."), tool_use("a", {"k": "v" * 50}), text("tick tock " * 20), text("")]
)
async def test_a_stream_keeps_the_grammar(upstream: StandIn, reply: Reply | None) -> None:
    upstream.always(reply)
    head, body, ended = await ask(upstream, STREAM)
    content, sizes, whole = unchunked(body)
    assert head.startswith(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\n")
    assert (whole, ended) == (True, "open")
    assert message_of(content)["role"] == "assistant"
    assert len(sizes) == len(events_of(content)), "each event is a chunk of its own"
    types = [event["type"] for event in events_of(content)]
    assert types[:3] == ["message_start", "content_block_start", "ping"]
    assert len(set(padding_of(content))) > 2, "padding varies"


async def test_the_same_seed_gives_the_same_bytes() -> None:
    sent: list[bytes] = []
    for seed in (1, 1, 2):
        async with StandIn(seed=seed) as upstream:
            sent.append((await ask(upstream, STREAM))[1])
    assert sent[0] == sent[1] != sent[2]


async def test_a_tools_first_fragment_is_empty(upstream: StandIn) -> None:
    upstream.always(tool_use("a", {"city": "Bern"}))
    content, _, _ = unchunked((await ask(upstream, STREAM))[1])
    deltas = [event["delta"]["partial_json"] for event in events_of(content) if "delta" in event and "index" in event]
    assert deltas[0] == ""
    assert json.loads("".join(deltas)) == {"city": "Bern"}


NOTHING: dict[str, tuple[Reply, Ended]] = {
    "hang": (hang(), "open"),
    "reset_before_head": (reset_before_head(), "reset"),
    "eof_before_head": (eof_before_head(), "eof"),
}


@pytest.mark.parametrize(("reply", "expected"), NOTHING.values(), ids=NOTHING.keys())
async def test_no_byte_comes(upstream: StandIn, reply: Reply, expected: Ended) -> None:
    upstream.always(reply)
    assert await ask(upstream, STREAM) == (b"", b"", expected)
    assert upstream.requests[0].replied == 0


async def test_reset_after_head(upstream: StandIn) -> None:
    upstream.always(reset_after_head())
    head, body, ended = await ask(upstream, STREAM)
    assert head.startswith(b"HTTP/1.1 200 OK\r\n")
    assert (body, ended) == (b"", "reset")
    assert upstream.requests[0].aborted is None, "it was us, not the peer"


CUTS: dict[str, tuple[Reply, Ended]] = {
    "reset": (reset_mid_event(700), "reset"),
    "eof": (eof_mid_event(700), "eof"),
    "hang": (hang_mid_event(700), "open"),
}


@pytest.mark.parametrize(("reply", "expected"), CUTS.values(), ids=CUTS.keys())
async def test_a_cut_comes_after_exactly_so_many_bytes(upstream: StandIn, reply: Reply, expected: Ended) -> None:
    upstream.always(reply)
    _, body, ended = await ask(upstream, STREAM)
    content, _, whole = unchunked(body)
    assert (len(content), whole, ended) == (700, False, expected)


@pytest.mark.parametrize("make", [reset_mid_event, eof_mid_event, hang_mid_event])
async def test_a_cut_is_inside_an_event_by_default(upstream: StandIn, make: type[Reply]) -> None:
    upstream.always(make())
    content, _, _ = unchunked((await ask(upstream, STREAM))[1])
    whole, _, rest = content.rpartition(b"\n\n")
    assert len(events_of(whole + b"\n\n")) > 3
    assert rest.startswith(b"event: ")


async def test_every_position_can_be_cut(upstream: StandIn) -> None:
    whole, _, _ = unchunked((await ask(upstream, STREAM))[1])
    for position in range(0, len(whole), 97):
        upstream.enqueue(eof_mid_event(position, text("Hi.")))
        content, _, _ = unchunked((await ask(upstream, STREAM))[1])
        assert len(content) <= position


async def test_a_clean_cut_ends_the_body_as_if_it_were_whole(upstream: StandIn) -> None:
    upstream.always(eof_mid_event(700, clean=True))
    content, _, whole = unchunked((await ask(upstream, STREAM))[1])
    assert (len(content), whole) == (700, True)


@pytest.mark.parametrize("clean", [False, True])
async def test_cut_before_message_stop(upstream: StandIn, clean: bool) -> None:
    upstream.always(cut_before_message_stop(clean=clean))
    _, body, ended = await ask(upstream, STREAM)
    content, _, whole = unchunked(body)
    assert events_of(content)[-1]["type"] == "message_delta"
    assert (whole, ended) == ((True, "open") if clean else (False, "eof"))


async def test_a_cut_json_reply_claims_its_whole_length(upstream: StandIn) -> None:
    upstream.always(eof_mid_event(100))
    head, body, ended = await ask(upstream, wire())
    assert len(body) == 100
    assert int(head.partition(b"content-length: ")[2].partition(b"\r\n")[0]) > 100
    assert ended == "eof"


async def test_html(upstream: StandIn) -> None:
    upstream.always(html(502))
    head, body, _ = await ask(upstream, STREAM)
    assert head.startswith(b"HTTP/1.1 502 Bad Gateway\r\n")
    assert b"\r\ncontent-type: text/html; charset=utf-8" in head
    assert b"application/json" not in head
    assert body.startswith(b"<!doctype html>")


async def test_redirect(upstream: StandIn) -> None:
    upstream.always(redirect("http://127.0.0.1:1/elsewhere"))
    head, body, _ = await ask(upstream, STREAM)
    assert head.startswith(b"HTTP/1.1 302 Found\r\n")
    assert b"\r\nlocation: http://127.0.0.1:1/elsewhere" in head
    assert body == b""


async def test_empty(upstream: StandIn) -> None:
    upstream.always(empty(503))
    head, body, ended = await ask(upstream, STREAM)
    assert head.startswith(b"HTTP/1.1 503 ")
    assert b"\r\ncontent-length: 0" in head
    assert (body, ended) == (b"", "open")


@pytest.mark.parametrize("stream", [True, False])
async def test_gzip_unasked(upstream: StandIn, stream: bool) -> None:
    upstream.always(gzip_unasked(text("Hello")))
    head, body, _ = await ask(upstream, wire(stream=stream))
    assert b"\r\ncontent-encoding: gzip" in head
    plain = gzip.decompress(unchunked(body)[0] if stream else body)
    assert (message_of(plain) if stream else json.loads(plain))["content"] == [{"type": "text", "text": "Hello"}]


async def test_garbage_chunks(upstream: StandIn) -> None:
    upstream.always(garbage_chunks())
    head, body, ended = await ask(upstream, STREAM)
    assert b"\r\ntransfer-encoding: chunked" in head
    with pytest.raises(ValueError, match="not-a-length"):
        unchunked(body)
    assert ended == "eof"


async def test_short_content_length(upstream: StandIn) -> None:
    upstream.always(short_content_length(10, json_body({"a": 1})))
    head, body, ended = await ask(upstream, wire())
    assert (body, ended) == (b'{"a":1}', "eof")
    assert b"\r\ncontent-length: 17" in head


async def test_surplus(upstream: StandIn) -> None:
    upstream.always(surplus(reply=json_body({"a": 1})))
    _, body, ended = await ask(upstream, wire())
    assert body == b'{"a":1}HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}'
    assert ended == "open"


ENDLESS = {
    "1xx": (endless_1xx(), b"HTTP/1.1 103 Early Hints\r\nlink: "),
    "headers": (endless_headers(), b"HTTP/1.1 200 OK\r\nx-padding: aaa"),
}


@pytest.mark.parametrize(("reply", "start"), ENDLESS.values(), ids=ENDLESS.keys())
async def test_endless_heads_go_on_as_they_are_read(upstream: StandIn, reply: Reply, start: bytes) -> None:
    upstream.always(reply)
    client = await connect(upstream)
    await client.send(STREAM)
    received = await client.reader.readexactly(5_000_000)
    assert received.startswith(start)
    await client.close()
    request = await upstream.wait_aborted(30.0)
    assert request.replied > 4_900_000


async def test_error_first_event(upstream: StandIn) -> None:
    upstream.always(error_first_event("overloaded_error", "Overloaded"))
    head, body, _ = await ask(upstream, STREAM)
    assert head.startswith(b"HTTP/1.1 200 OK\r\n")
    content, _, whole = unchunked(body)
    request_id = upstream.requests[0].request_id
    error = {"type": "overloaded_error", "message": "Overloaded"}
    assert events_of(content) == [{"type": "error", "error": error, "request_id": request_id}]
    assert f"request-id: {request_id}".encode() in head
    assert whole


async def test_error_mid_stream(upstream: StandIn) -> None:
    upstream.always(error_mid_stream("api_error", "Broken", after_events=3))
    content, _, whole = unchunked((await ask(upstream, STREAM))[1])
    types = [event["type"] for event in events_of(content)]
    assert types == ["message_start", "content_block_start", "ping", "content_block_delta", "error"]
    assert whole


async def test_sse_is_sent_in_the_given_chunks(upstream: StandIn) -> None:
    sent = b'event: ping\r\ndata: {"type": "ping"}\r\n\r\n'
    upstream.enqueue(sse(sent, chunk_sizes=[1, 5]), sse(sent, one_byte=True))
    assert unchunked((await ask(upstream, STREAM))[1]) == (sent, [1, 5, len(sent) - 6], True)
    assert unchunked((await ask(upstream, STREAM))[1]) == (sent, [1] * len(sent), True)


async def test_one_byte_per_segment(upstream: StandIn) -> None:
    plain = await ask(upstream, STREAM)
    upstream.always(one_byte_per_segment(text("Hi.")))
    client = await connect(upstream, limit=1)
    await client.send(STREAM)
    reads: list[bytes] = []
    while not b"".join(reads).endswith(b"0\r\n\r\n"):
        reads.append(await client.reader.read(1 << 16))
    await client.close()
    assert b"".join(reads).startswith(plain[0][:40])
    assert len(reads) > len(b"".join(reads)) // 4, "on the same loop most bytes are read one by one"
    message_of(unchunked(b"".join(reads).partition(b"\r\n\r\n")[2])[0])


async def test_one_byte_every_so_often(upstream: StandIn) -> None:
    upstream.always(one_byte_a_second(0.02, json_body({"a": 1})))
    started = time.monotonic()
    _, body, _ = await ask(upstream, wire())
    assert body == b'{"a":1}'
    assert time.monotonic() - started >= 7 * 0.02


async def test_late_and_stall_are_silent_for_a_while(upstream: StandIn) -> None:
    upstream.enqueue(late(0.3), stall(0.3, after_bytes=150))
    assert await ask(upstream, STREAM, silence=0.1) == (b"", b"", "open")
    _, body, _ = await ask(upstream, STREAM, silence=0.1)
    assert len(unchunked(body)[0]) == 150
    upstream.enqueue(stall(0.1, after_bytes=150))
    assert message_of(unchunked((await ask(upstream, STREAM, silence=0.4))[1])[0])


async def test_raw_sends_exactly_its_bytes(upstream: StandIn) -> None:
    upstream.enqueue(raw(b"not HTTP at all"), raw(b"HTTP/1.1 204\n\n", end="hang"))
    assert await ask(upstream, STREAM) == (b"not HTTP at all", b"", "eof")
    assert await ask(upstream, STREAM) == (b"HTTP/1.1 204\n\n", b"", "open")


@pytest.mark.parametrize("announce", [True, False])
async def test_close_after(upstream: StandIn, announce: bool) -> None:
    upstream.always(close_after(announce=announce))
    head, body, ended = await ask(upstream, STREAM)
    assert unchunked(body)[2]
    assert ended == "eof"
    assert (b"\r\nconnection: close" in head) is announce


@pytest.mark.parametrize("reset", [True, False])
async def test_close_on_reuse(upstream: StandIn, reset: bool) -> None:
    upstream.enqueue(close_on_reuse(json_body({"a": 1}), reset=reset))
    client = await connect(upstream)
    await client.send(wire())
    received, ended = await client.until_silent()
    assert received.endswith(b'{"a":1}')
    assert ended == "open"
    await client.send(wire())
    assert await client.until_silent() == (b"", "reset" if reset else "eof")
    await client.close()
    assert (len(upstream.requests), upstream.closed_on_reuse) == (1, 1)


@pytest.mark.parametrize("reply", [huge_line(3_000_000), big_stream(3_000_000)], ids=["huge_line", "big_stream"])
async def test_large_replies_are_complete(upstream: StandIn, reply: Reply) -> None:
    upstream.always(reply)
    content, _, whole = unchunked((await ask(upstream, STREAM, silence=1))[1])
    assert whole
    assert len(content) >= 3_000_000
    assert len(message_of(content)["content"]) == 1


async def test_large_replies_wait_for_a_slow_reader(upstream: StandIn) -> None:
    upstream.always(big_stream())
    client = await connect(upstream)
    await client.send(STREAM)
    await client.reader.readexactly(1000)
    (request,) = upstream.requests
    before = await until_still(lambda: request.replied)
    assert 1000 < before < 20_000_000
    await client.reader.readexactly(10_000_000)
    assert request.replied > before
    await client.close()
    assert (await upstream.wait_aborted(30.0)).replied < 40_000_000

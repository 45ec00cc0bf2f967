"""Event streams of the Bedrock stand-in, complete and damaged, as botocore's own parser reads them."""

from __future__ import annotations

import base64
import json
from collections.abc import AsyncIterator
from itertools import pairwise
from typing import Any

import pytest
from botocore.eventstream import ChecksumMismatch, EventStreamBuffer, InvalidPayloadLength

from bud_asgi.testing import (
    Reply,
    StandIn,
    cut_before_message_stop,
    eof_mid_event,
    error_mid_stream,
    hang,
    hang_mid_event,
    html,
    one_byte_per_segment,
    reset_mid_event,
    sse,
    text,
    tool_use,
)
from bud_asgi.testing.bedrock import (
    AwsKey,
    Bedrock,
    absurd_length,
    all_at_once,
    bad_checksum,
    exception_as_event,
    exception_first,
    exception_mid_stream,
    large_event,
    large_event_stream,
    metrics_apart,
    unknown_event,
    unmodelled_error,
    with_message,
)
from bud_asgi.testing.bedrock.frames import message
from bud_asgi.testing.bedrock.stream import METRICS, chunk, event_message
from testing.bedrock.signed_client import OPUS, encoded, invoke, path, send, signed
from testing.raw_client import Client, connect, wire

Served = tuple[StandIn, AwsKey]
STREAM = path(OPUS, "invoke-with-response-stream")
CHUNK = {":event-type": "chunk", ":content-type": "application/json", ":message-type": "event"}


@pytest.fixture
async def served() -> AsyncIterator[Served]:
    bedrock = Bedrock()
    async with StandIn.of(bedrock) as upstream:
        yield upstream, bedrock.keys.issue()


def read(stream: bytes) -> tuple[list[tuple[dict[str, Any], Any]], bytes]:
    """Return the headers and payloads of a stream's messages, and the remaining bytes. Raises what botocore raises."""
    buffer: Any = EventStreamBuffer()
    buffer.add_data(stream)
    found = [(each.headers, json.loads(each.payload or b"null")) for each in buffer]
    return found, buffer._data


def events_of(found: list[tuple[dict[str, Any], Any]]) -> list[dict[str, Any]]:
    """Return the events in the chunks."""
    return [json.loads(base64.b64decode(payload["bytes"])) for headers, payload in found if headers == CHUNK]


async def start_stream(served: Served) -> tuple[Client, bytes]:
    """Request a stream; return the client and the first bytes of the reply."""
    body = encoded({})
    headers = {**signed(*served, body, target=STREAM), "x-api-key": None, "anthropic-version": None}
    client = await connect(served[0])
    await client.send(wire(body, headers=headers, start=f"POST {STREAM} HTTP/1.1"))
    return client, await client.reader.read(1000)


async def streamed(served: Served, reply: Reply | None, silence: float = 5.0) -> tuple[bytes, str]:
    """Return the content of the stream of this reply, and how the connection ended."""
    served[0].always(reply)
    head, content, ended = await invoke(*served, target=STREAM, silence=silence)
    assert head.startswith(b"HTTP/1.1 200 OK\r\ncontent-type: application/vnd.amazon.eventstream\r\n")
    assert b"\r\nx-amzn-bedrock-content-type: application/json\r\n" in head
    return content, ended


def message_of(events: list[dict[str, Any]]) -> tuple[str, str | None]:
    """Return the text of the events, and the stop reason."""
    comparable = "".join(event["delta"].get("text", "") for event in events if event["type"] == "content_block_delta")
    reasons = [event["delta"]["stop_reason"] for event in events if event["type"] == "message_delta"]
    return comparable, reasons[0] if reasons else None


@pytest.mark.parametrize("reply", [None, text("tick tock " * 20), text(""), tool_use("a", {"k": "v" * 50})])
async def test_a_stream_is_chunks_with_events_of_a_message(served: Served, reply: Reply | None) -> None:
    content, ended = await streamed(served, reply)
    found, left = read(content)
    assert (left, ended) == (b"", "open")
    assert [headers for headers, _ in found] == [CHUNK] * len(found)
    events = events_of(found)
    assert events[0]["type"] == "message_start"
    assert events[-1]["type"] == "message_stop"
    assert set(events[-1]) == {"type", METRICS}
    assert all(set(payload) == {"bytes", "p"} for _, payload in found)
    assert not [event for event in events if event["type"] == "ping"]
    plain = [json.dumps(event, separators=(",", ":"), ensure_ascii=False).encode() for event in events]
    assert [base64.b64decode(payload["bytes"]) for _, payload in found] == plain, "nothing is padded inside"


async def test_the_filler_varies_in_length_only(served: Served) -> None:
    found, _ = read((await streamed(served, text("tick tock " * 20)))[0])
    fillers = sorted({payload["p"] for _, payload in found}, key=len)
    assert len(fillers) > 10
    assert all(longer.startswith(shorter) for shorter, longer in pairwise(fillers))
    assert fillers[0].startswith("a")


async def test_each_message_is_one_http_chunk(served: Served) -> None:
    client, raw = await start_stream(served)
    raw = (raw + (await client.until_silent())[0]).partition(b"\r\n\r\n")[2]
    await client.close()
    while (size := int(raw.partition(b"\r\n")[0], 16)) > 0:
        rest = raw.partition(b"\r\n")[2]
        found, left = read(rest[:size])
        assert (len(found), left) == (1, b"")
        raw = rest[size + 2 :]


async def test_the_metrics_match_the_usage(served: Served) -> None:
    events = events_of(read((await streamed(served, None))[0])[0])
    usage = events[-2]["usage"]
    error_of = events[-1][METRICS]
    assert (error_of["inputTokenCount"], error_of["outputTokenCount"]) == (
        usage["input_tokens"],
        usage["output_tokens"],
    )
    assert usage["input_tokens"] > 0


async def test_the_same_seed_gives_the_same_bytes() -> None:
    comparable: list[bytes] = []
    headers = {"authorization": "Bearer bedrock-api-key-stand-in"}
    for seed in (1, 1, 2):
        async with StandIn.of(Bedrock(), seed=seed) as upstream:
            comparable.append((await send(upstream, encoded({}), headers, target=STREAM))[1])
            comparable.append(upstream.requests[0].request_id.encode())
    assert comparable[0:2] == comparable[2:4]
    assert comparable[0] != comparable[4]
    assert comparable[1] != comparable[5]


ENDS: dict[str, tuple[Reply, int, dict[str, Any], Any]] = {
    "an exception first": (
        exception_first("throttlingException", "Slow."),
        0,
        {":exception-type": "throttlingException", ":content-type": "application/json", ":message-type": "exception"},
        {"message": "Slow."},
    ),
    "an exception in the middle": (
        exception_mid_stream(message="No.", originalStatusCode=529, originalMessage="Busy"),
        4,
        {
            ":exception-type": "modelStreamErrorException",
            ":content-type": "application/json",
            ":message-type": "exception",
        },
        {"message": "No.", "originalStatusCode": 529, "originalMessage": "Busy"},
    ),
    "an error of the Messages API": (
        error_mid_stream("rate_limit_error", "Slow.", after_events=2),
        2,
        {":exception-type": "throttlingException", ":content-type": "application/json", ":message-type": "exception"},
        {"message": "Slow."},
    ),
    "an exception as an event": (
        exception_as_event(after=3),
        3,
        {":event-type": "throttlingException", ":content-type": "application/json", ":message-type": "event"},
        {"message": "Too many tokens."},
    ),
    "an unmodelled error": (
        unmodelled_error("Boom", "No.", after=1),
        1,
        {":message-type": "error", ":error-code": "Boom", ":error-message": "No."},
        None,
    ),
}


@pytest.mark.parametrize(("reply", "before", "headers", "payload"), ENDS.values(), ids=ENDS.keys())
async def test_a_stream_that_ends_with_a_failure(
    served: Served, reply: Reply, before: int, headers: dict[str, Any], payload: Any
) -> None:
    content, ended = await streamed(served, reply)
    found, left = read(content)
    assert found[before:] == [(headers, payload)]
    assert [kind for kind, _ in found[:before]] == [CHUNK] * before
    assert (left, ended) == (b"", "open")


async def test_an_inserted_message_changes_nothing_else(served: Served) -> None:
    plain = events_of(read((await streamed(served, metrics_apart()))[0])[0])
    assert plain[-1] == {METRICS: {**plain[-1][METRICS]}}
    assert plain[-2] == {"type": "message_stop"}
    first = events_of(read((await streamed(served, metrics_apart(first=True)))[0])[0])
    assert list(first[0]) == [METRICS]
    assert first[-1] == {"type": "message_stop"}
    assert message_of(plain[:-1]) == message_of(first[1:])
    found, _ = read((await streamed(served, unknown_event(at=2)))[0])
    assert found[2][0][":event-type"] == "somethingNew"
    assert message_of(events_of(found)) == message_of(plain[:-1])
    found, _ = read((await streamed(served, with_message(message({"a": "b"}), at=0, reply=text("Hi."))))[0])
    assert found[0] == ({"a": "b"}, None)
    assert message_of(events_of(found)) == ("Hi.", "end_turn")


async def test_all_messages_may_come_at_once(served: Served) -> None:
    served[0].enqueue(all_at_once(text("Hi.")))
    client, raw = await start_stream(served)
    raw = (raw + (await client.until_silent())[0]).partition(b"\r\n\r\n")[2]
    await client.close()
    size, _, rest = raw.partition(b"\r\n")
    assert rest[int(size, 16) :] == b"\r\n0\r\n\r\n"
    assert message_of(events_of(read(rest[: int(size, 16)])[0])) == ("Hi.", "end_turn")


async def test_a_wrong_checksum_is_detected(served: Served) -> None:
    for prelude in (False, True):
        content, _ = await streamed(served, bad_checksum(at=2, prelude=prelude))
        buffer: Any = EventStreamBuffer()
        buffer.add_data(content)
        assert [buffer.next().headers for _ in range(2)] == [CHUNK] * 2
        with pytest.raises(ChecksumMismatch):
            buffer.next()
        assert (buffer._prelude is None) == prelude


async def test_an_absurd_length_has_a_valid_checksum_and_endless_data(served: Served) -> None:
    served[0].enqueue(absurd_length(at=1, reply=text("Hi.")))
    client, raw = await start_stream(served)
    while len(raw) < 1_000_000:
        raw += await client.reader.read(1 << 20)
    await client.close()
    assert (await served[0].wait_aborted()).replied > 500_000
    size, _, rest = raw.partition(b"\r\n\r\n")[2].partition(b"\r\n")
    wire = rest[int(size, 16) + 2 :].partition(b"\r\n")[2]
    assert wire.startswith(b"\xff\xff\xff\xff\x00\x00\x00\x00")
    with pytest.raises(InvalidPayloadLength):
        read(wire[:12])


async def test_a_cut_stream_keeps_its_whole_messages(served: Served) -> None:
    whole, _ = read((await streamed(served, text("Hi you there.")))[0])
    cases: list[tuple[Reply, str, int, bool]] = [
        (cut_before_message_stop(text("Hi you there."), clean=True), "open", len(whole) - 1, False),
        (cut_before_message_stop(text("Hi you there.")), "eof", len(whole) - 1, False),
        (eof_mid_event(reply=text("Hi you there."), clean=True), "open", len(whole) // 2, True),
        (eof_mid_event(5, text("Hi you there.")), "eof", 0, True),
        (reset_mid_event(reply=text("Hi you there.")), "reset", len(whole) // 2, True),
        (hang_mid_event(reply=text("Hi you there.")), "open", len(whole) // 2, True),
    ]
    for reply, expected, count, cut in cases:
        content, ended = await streamed(served, reply, 0.2)
        found, left = read(content)
        assert (ended, len(found), bool(left)) == (expected, count, cut)


async def test_bytes_may_arrive_one_by_one(served: Served) -> None:
    content, _ = await streamed(served, one_byte_per_segment(text("Hi.")))
    assert message_of(events_of(read(content)[0])) == ("Hi.", "end_turn")


async def test_other_faults_work_here_too(served: Served) -> None:
    served[0].enqueue(hang(), html(502))
    assert await invoke(*served, target=STREAM, silence=0.1) == (b"", b"", "open")
    head, content, _ = await invoke(*served, target=STREAM)
    assert head.startswith(b"HTTP/1.1 502 Bad Gateway\r\n")
    assert b"\r\ncontent-type: text/html; charset=utf-8" in head
    assert b"x-amzn-requestid: " in head
    assert content.startswith(b"<!doctype html>")
    raw = chunk(b'{"type":"ping"}') + event_message("x", b"{}")
    content, _ = await streamed(served, sse(raw, one_byte=True))
    assert content == raw


async def test_large_events_and_streams(served: Served) -> None:
    found, _ = read((await streamed(served, large_event(3_000_000)))[0])
    assert len(message_of(events_of(found))[0]) > 3_000_000
    content, _ = await streamed(served, large_event_stream(500_000, "tick "))
    assert len(content) > 500_000
    comparable, reason = message_of(events_of(read(content)[0]))
    assert comparable.startswith("tick tick ")
    assert reason == "end_turn"


async def test_only_content_can_be_damaged() -> None:
    with pytest.raises(TypeError, match="must be `Content`"):
        bad_checksum(reply=html())

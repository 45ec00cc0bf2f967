"""Bedrock's event stream as server-sent events: every event, no other byte, and every kind of invalid stream."""

from __future__ import annotations

import json
import time
from itertools import accumulate, pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.counts import examples

from bud_asgi.attempt import Attempt, Target
from bud_asgi.protocol.sse import PING
from bud_asgi.protocol.usage import Usage
from bud_asgi.testing.bedrock.frames import with_checksum
from bud_asgi.testing.bedrock.stream import (
    chunk,
    error_message,
    event_message,
    exception_message,
    metrics_chunk,
    text_delta,
)

from .example_stream import DELTA, END, FRAMES, SSE, START, STOP, codec, corrupt


def converted(*pieces: bytes) -> bytes:
    """Convert a whole, valid stream in these pieces."""
    one = codec()
    written = b"".join(one.feed(piece) for piece in pieces) + one.finish()
    assert one.error == ""
    return written


def event_of(payload: bytes) -> bytes:
    return converted(chunk(payload))


def test_a_stream_of_events() -> None:
    assert converted(FRAMES) == SSE


@given(st.lists(st.integers(1, len(FRAMES) - 1), max_size=30))
@examples(50, 2_000)
def test_the_output_does_not_depend_on_how_the_bytes_are_cut(cuts: list[int]) -> None:
    at = sorted({0, len(FRAMES), *cuts})
    assert converted(*(FRAMES[start:end] for start, end in pairwise(at))) == SSE


_FRAMES = st.sampled_from(
    [
        *(chunk(event) for event in (START, DELTA, DELTA, DELTA, END, STOP)),
        *(chunk(text_delta("a" * size), size) for size in range(5)),
        *(chunk(DELTA.replace(b",", end, 1)) for end in (b",\n", b",\r", b",\r\n")),
        chunk(b'{"index":0,"type":"content_block_delta"}'),
        chunk(b'{"type":"content_block_delta_of_another_kind"}'),
        chunk(b'{"type":"error","error":{}}'),
        chunk(b'{"amazon-bedrock-guardrailAction":"NONE"}'),
        metrics_chunk(),
        event_message("somethingNew", b"{}"),
        event_message("chunk", b'{"bytes":"e30="},{"bytes":"e30="}'),
        event_message("chunk", b'{"bytes":"%%"}'),
        event_message("chunk", b"no"),
        chunk(b"no"),
        chunk(b'{"type":"a\\nevent: b"}'),
        exception_message("throttlingException", "Too many."),
        error_message("InternalFailure", "x"),
        corrupt(-1),
        corrupt(8),
        corrupt(100),
        chunk(DELTA)[:-1],
    ]
)


@given(st.lists(_FRAMES, max_size=12), st.lists(st.integers(0, 3000), max_size=6))
@examples(50, 2_000)
def test_frames_that_arrive_together_give_what_they_give_one_by_one(frames: list[bytes], cuts: list[int]) -> None:
    """But for the fields of AWS's that `message_stop` takes from chunks behind it, if they arrive in time."""
    stream = b"".join(frames)
    frames_alone = [b for frame in frames for b in (frame[:-1], frame[-1:])]
    edges = [0, *sorted(min(cut, len(stream)) for cut in cuts), len(stream)]
    results: list[tuple[bytes, str, bool]] = []
    for pieces in (frames_alone, [stream], [stream[a:b] for a, b in pairwise(edges)]):
        one = codec()
        written = b"".join(one.feed(piece) for piece in pieces) + one.finish()
        written = written.replace(b',"amazon-bedrock-guardrailAction":"NONE"', b"")
        results.append((written, one.error, one.upstream_error is None))
    assert results[0] == results[1] == results[2]


def test_byte_by_byte_each_event_is_written_with_its_last_byte() -> None:
    one = codec()
    ends = [n + 1 for n in range(len(FRAMES)) if one.feed(FRAMES[n : n + 1])]
    frames = [chunk(event, n) for n, event in enumerate((START, DELTA, DELTA, END, STOP))]
    assert ends == list(accumulate(len(frame) for frame in frames))


EVENTS: dict[str, tuple[bytes, bytes]] = {
    "unknown": (b'{"type":"a_new_event","x":1e2}', b'event: a_new_event\ndata: {"type":"a_new_event","x":1e2}\n\n'),
    "a ping": (b'{"type":"ping"}', b'event: ping\ndata: {"type":"ping"}\n\n'),
    "spaces": (b'{ "type" : "message_delta" }', b'event: message_delta\ndata: { "type" : "message_delta" }\n\n'),
    "another order": (
        b'{"index":0,"type":"content_block_stop"}',
        b'event: content_block_stop\ndata: {"index":0,"type":"content_block_stop"}\n\n',
    ),
    "an escaped type": (b'{"type":"pin\\u0067"}', b'event: ping\ndata: {"type":"pin\\u0067"}\n\n'),
    "line ends": (b'{"type":"ping",\r\n"a":\n1}', b'event: ping\ndata: {"type":"ping",  "a": 1}\n\n'),
    "line ends in front": (b'\n{"type":"ping"}\r', b'event: ping\ndata:  {"type":"ping"} \n\n'),
    "no type": (b'{"amazon-bedrock-invocationMetrics":{}}', b""),
    "an empty type": (b'{"type":""}', b""),
    "a start in another order": (
        b'{"message":{},"type":"message_start"}',
        b'event: message_start\ndata: {"message":{},"type":"message_start"}\n\n' + PING,
    ),
}


@pytest.mark.parametrize(("payload", "sse"), EVENTS.values(), ids=EVENTS.keys())
def test_an_event(payload: bytes, sse: bytes) -> None:
    assert event_of(payload) == sse


def test_chunks_of_metrics_are_left_out_at_the_start_and_at_the_end() -> None:
    assert converted(metrics_chunk() + FRAMES + metrics_chunk()) == SSE


METRICS: dict[str, tuple[bytes, Usage | None]] = {
    "in the stop": (chunk(STOP), Usage(3, 9)),
    "in a chunk of their own": (metrics_chunk({"input_tokens": 1, "output_tokens": 2}), Usage(1, 2)),
    "of the cache": (
        metrics_chunk({"cache_read_input_tokens": 5, "cache_creation_input_tokens": 6}),
        Usage(0, 0, cache_creation_input_tokens=6, cache_read_input_tokens=5),
    ),
    "of another form": (
        chunk(b'{"amazon-bedrock-invocationMetrics":{"inputTokenCount":"7","outputTokenCount":-1}}'),
        Usage(7),
    ),
    "not an object": (chunk(b'{"amazon-bedrock-invocationMetrics":[1]}'), None),
    "in a text": (chunk(DELTA.replace(b"\\n", b'\\"amazon-bedrock-invocationMetrics\\":{}')), None),
}


@pytest.mark.parametrize(("frames", "usage"), METRICS.values(), ids=METRICS.keys())
def test_the_counts_of_metrics_are_kept(frames: bytes, usage: Usage | None) -> None:
    attempt = Attempt(Target("bedrock"))
    one = codec(attempt)
    one.feed(frames)
    assert not one.error
    assert attempt.metered == usage


def test_unknown_events_are_ignored() -> None:
    assert converted(event_message("somethingNew", b'{"new":true}') + FRAMES) == SSE
    assert converted(event_message("initial-response", b"") + FRAMES) == SSE


EXCEPTIONS: dict[str, tuple[bytes, str, str]] = {
    "internalServerException": (exception_message("internalServerException", "x"), "api_error", "The upstream failed."),
    "modelStreamErrorException": (
        exception_message("modelStreamErrorException", "x", originalStatusCode=400, originalMessage="y"),
        "api_error",
        "The upstream failed.",
    ),
    "validationException": (
        exception_message("validationException", "messages: no"),
        "invalid_request_error",
        "messages: no",
    ),
    "a prompt too long": (
        exception_message("validationException", "Input is too long for requested model."),
        "invalid_request_error",
        "prompt is too long: Input is too long for requested model.",
    ),
    "throttlingException": (exception_message("throttlingException", "Too many."), "rate_limit_error", "Too many."),
    "modelTimeoutException": (
        exception_message("modelTimeoutException", "x"),
        "timeout_error",
        "The model did not answer in time.",
    ),
    "serviceUnavailableException": (
        exception_message("serviceUnavailableException", "Busy."),
        "overloaded_error",
        "Busy.",
    ),
    "an unknown one": (
        exception_message("somethingElseException", "account 123456789012"),
        "api_error",
        "The upstream failed.",
    ),
    "invalid JSON": (
        event_message("throttlingException", b"{"),
        "rate_limit_error",
        "The upstream refused the request without a message.",
    ),
    "as an event": (event_message("throttlingException", b'{"message":"Too many."}'), "rate_limit_error", "Too many."),
    "an error": (error_message("InternalFailure", "in arn:aws:x:y"), "api_error", "The upstream failed."),
    "an error by name": (error_message("ThrottlingException", "Too many."), "rate_limit_error", "Too many."),
}


@pytest.mark.parametrize("before", [b"", chunk(START)], ids=["first", "in the middle"])
@pytest.mark.parametrize(("frame", "kind", "text"), EXCEPTIONS.values(), ids=EXCEPTIONS.keys())
def test_an_exception_ends_the_stream_with_an_error_event(frame: bytes, kind: str, text: str, before: bytes) -> None:
    written = converted(before + frame + FRAMES, b"what comes after is not read")
    begun = converted(before)
    assert written.startswith(begun + b"event: error\ndata: ")
    event = json.loads(written.removeprefix(begun + b"event: error\ndata: "))
    assert event == {"type": "error", "error": {"type": kind, "message": text}, "request_id": "req_1"}


def test_the_error_of_an_exception_is_kept_for_the_log() -> None:
    one = codec()
    one.feed(chunk(START))
    assert one.upstream_error is None
    one.feed(exception_message("internalServerException", "account 123456789012"))
    assert one.upstream_error is not None
    assert one.upstream_error.upstream_message == "in the stream InternalServerException: account 123456789012"


def test_an_error_event_of_the_model_ends_the_stream_unchanged() -> None:
    payload = b'{"type":"error","error":{"type":"overloaded_error","message":"Overloaded"}}'
    assert converted(chunk(payload) + FRAMES) == b"event: error\ndata: %b\n\n" % payload


def test_after_the_last_event_nothing_is_read() -> None:
    assert converted(FRAMES + b"not a frame", exception_message("throttlingException", "x")) == SSE


INVALID: dict[str, bytes] = {
    "wrong message checksum": corrupt(-1),
    "wrong prelude checksum": corrupt(8),
    "damaged payload": corrupt(100),
    "length above the maximum": with_checksum(b"\xff\xff\xff\xff\x00\x00\x00\x00") + bytes(1000),
    "not a frame": b"HTTP/1.1 400 Bad Request\r\n",
    "chunk is not JSON": event_message("chunk", b"no"),
    "chunk without bytes": event_message("chunk", b"{}"),
    "bytes are not base64": event_message("chunk", b'{"bytes":"%%"}'),
    "event is not JSON": chunk(b"no"),
    "invalid type": chunk(b'{"type":"a\\nevent: b"}'),
    "type is not a string": chunk(b'{"type":1}'),
    "truncated": chunk(DELTA)[:-1],
    "truncated prelude": chunk(DELTA)[:5],
}


@pytest.mark.parametrize("invalid", INVALID.values(), ids=INVALID.keys())
def test_events_before_an_invalid_message_are_written(invalid: bytes) -> None:
    one = codec()
    assert one.feed(chunk(START) + invalid) + one.finish() == b"event: message_start\ndata: %b\n\n%b" % (START, PING)
    assert one.error
    assert one.feed(FRAMES) == b""


def test_a_large_event_in_small_pieces_takes_linear_time() -> None:
    frame, one = chunk(text_delta("a" * 1_000_000)), codec()
    began = time.thread_time()
    written = b"".join(one.feed(frame[n : n + 100]) for n in range(0, len(frame), 100))
    assert time.thread_time() - began < 1.0
    assert len(written) > 1_000_000


def test_an_event_takes_a_few_microseconds() -> None:
    frame, one = chunk(text_delta("All work and no play")), codec()
    began = time.thread_time()
    for _ in range(10_000):
        one.feed(frame)
    assert (time.thread_time() - began) / 10_000 < 40e-6

"""Bytes are not bent: what the client sends is what upstream gets, and the other way round."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import httpx
import pytest
from support.calls import BODY, HEADERS, KEY, MODEL, UPSTREAM_KEY
from support.gateway import Gateway, gateway, provider

from bud_asgi import Route, Target
from bud_asgi.testing import StandIn, ThreadedStandIn, json_body, sse

STREAM = (
    b'event: message_start\ndata: {"type":"message_start","message":{"id":"msg_1","type":"message","role":"assistant",'
    b'"model":"m","content":[],"usage":{"input_tokens":3,"output_tokens":1}}}      \n\n'
    b'event: content_block_start\ndata: {"type":"content_block_start","index":0,"content_block":{"type":"text"}   }\n\n'
    b'event: ping\ndata: {"type": "ping"}\n\n'
    b"event: content_block_delta\n"
    b'data: {"delta":{"text":"\xe2\x80\xa8 \xc2\x85 \xf0\x9f\x98\x80 message_stop 1e2"}}\n\n'
    b": a comment\n\n"
    b"event: an_event_of_tomorrow\ndata: {}\n\n"
    b'event: message_delta\ndata: {"delta":{"stop_reason":"end_turn"},"usage":{"output_tokens":9}}\n\n'
    b'event: message_stop\ndata: {"type":"message_stop"}\n\n'
)
ENDINGS = {"LF": STREAM, "CRLF": STREAM.replace(b"\n", b"\r\n"), "CR": STREAM.replace(b"\n", b"\r")}
CUTS: dict[str, dict[str, Any]] = {
    "in one piece": {},
    "byte by byte": {"one_byte": True},
    "in the middle of a character": {"chunk_sizes": [STREAM.index(b"\xf0") + 2]},
    "before the last line end": {"chunk_sizes": [len(STREAM) - 1]},
}


@pytest.mark.parametrize("cut", CUTS.values(), ids=CUTS.keys())
@pytest.mark.parametrize("wire", ENDINGS.values(), ids=ENDINGS.keys())
def test_a_stream_is_relayed_byte_for_byte(
    here: Gateway, upstream: ThreadedStandIn, wire: bytes, cut: dict[str, Any]
) -> None:
    upstream.enqueue(sse(wire, **cut))
    reply = here.post({"stream": True})
    assert reply.content == wire
    assert reply.headers["content-type"] == "text/event-stream; charset=utf-8"
    assert reply.headers["cache-control"] == "no-cache"
    assert reply.headers["x-accel-buffering"] == "no"
    usage = here.account().usage
    assert usage is not None
    assert (usage.input_tokens, usage.output_tokens) == (3, 9)
    assert here.account().outcome == "answered"


def test_an_event_larger_than_what_is_observed_does_not_end_the_observing(
    here: Gateway, upstream: ThreadedStandIn
) -> None:
    wire = STREAM.replace(b"1e2", b"x" * (5 << 20))
    upstream.enqueue(sse(wire))
    assert here.post({"stream": True}).content == wire
    assert here.account().outcome == "answered"


def test_a_json_answer_is_relayed_byte_for_byte(here: Gateway, upstream: ThreadedStandIn) -> None:
    body = b'{ "type":"message","content":[{"n":1e2,"s":"\\u00e9"}], "usage":{"input_tokens":3,"output_tokens":0}}\n'
    upstream.enqueue(json_body(body))
    reply = here.post()
    assert reply.content == body
    assert reply.headers["content-length"] == str(len(body))
    usage = here.account().usage
    assert usage is not None
    assert (usage.input_tokens, usage.output_tokens) == (3, 0)


def test_a_json_answer_too_large_to_be_held_goes_out_as_it_comes(here: Gateway, upstream: ThreadedStandIn) -> None:
    body = json.dumps({"type": "message", "content": "x" * (6 << 20)}).encode()
    upstream.enqueue(json_body(body))
    assert here.post().content == body
    assert here.account().outcome == "answered"


REQUEST = (
    b' {"model": "claude-haiku-4-5" ,\t"max_tokens" : 100,"metadata":{"user_id":"\\u00e9\\ud83d\\ude00"},'
    b'"messages":[{"content":[{"text":"1e2 \xe2\x80\xa8","type":"text","cache_control":{"type":"ephemeral"}}],'
    b'"role":"user"}],"tools":[{"name":"t","input_schema":{"type":"object","maximum":123456789012345678901234567890,'
    b'"minimum":1E+2,"x":-0.0}}],"stop_sequences":["\\n\\t/\\/"]} \r\n'
)


def test_a_request_is_forwarded_byte_for_byte(here: Gateway, upstream: ThreadedStandIn) -> None:
    assert here.post(REQUEST).status_code == 200
    assert upstream.requests[0].body == REQUEST


def test_only_a_mapped_model_is_replaced_in_place(upstream: ThreadedStandIn) -> None:
    name = 'odd "name" \\ é'
    with gateway(upstream.base_url, routes=[Route(MODEL, to=[Target("anthropic", name)])]) as here:
        assert here.post(REQUEST).status_code == 200
    sent = upstream.requests[0].body
    assert json.loads(sent)["model"] == name
    assert sent == REQUEST.replace(b'"claude-haiku-4-5"', json.dumps(name, ensure_ascii=False).encode())


def test_unknown_fields_reach_an_upstream_that_accepts_them() -> None:
    with StandIn(api_key=UPSTREAM_KEY).in_thread() as upstream, gateway(upstream.base_url) as here:
        body = json.dumps({**BODY, "a_field_of_tomorrow": {"b": [1, 2]}}).encode()
        here.post(body)
        assert upstream.requests[0].body == body


def test_headers_up(here: Gateway, upstream: ThreadedStandIn) -> None:
    lines = [
        ("x-api-key", KEY),
        ("anthropic-version", "2023-06-01"),
        ("anthropic-beta", "b-1, b-2"),
        ("Anthropic-Beta", "b-3"),
        ("anthropic-of-tomorrow", "yes"),
        ("anthropic-workspace-id", "wrkspc_1"),
        ("anthropic-user-profile-id", "up_1"),
        ("cookie", "a=b"),
        ("x-forwarded-for", "1.2.3.4"),
        ("x-stainless-lang", "python"),
        ("accept-encoding", "gzip, br"),
        ("te", "trailers"),
        ("user-agent", "Anthropic/Python 2.12.0"),
        ("x-claude-code-session-id", "s"),
    ]
    assert httpx.post(f"{here.base_url}/v1/messages?beta=true", headers=lines, json=BODY).status_code == 200
    (seen,) = upstream.requests
    sent = {name.decode().lower(): value.decode() for name, value in seen.headers}
    assert len(sent) == len(seen.headers)
    assert len(sent.pop("bud-hops")) == 16  # for hosts that are not a vendor's
    assert sent == {
        "host": upstream.base_url.removeprefix("http://"),
        "x-api-key": UPSTREAM_KEY,
        "anthropic-version": "2023-06-01",
        "anthropic-beta": "b-1, b-2,b-3",
        "anthropic-of-tomorrow": "yes",
        "accept": "application/json",
        "accept-encoding": "identity",
        "content-type": "application/json",
        "user-agent": "bud_asgi",
        "content-length": str(len(seen.body)),
    }
    assert seen.target == b"/v1/messages"


@pytest.mark.parametrize("stream", [False, True], ids=["json", "stream"])
def test_headers_down(here: Gateway, upstream: ThreadedStandIn, stream: bool) -> None:
    reply = here.post({"stream": stream})
    ours = {"date", "server", "content-type", "request-id", "upstream-request-id"}
    rest = {"cache-control", "x-accel-buffering", "transfer-encoding"} if stream else {"content-length"}
    assert set(reply.headers) == ours | rest
    assert reply.headers["upstream-request-id"] == upstream.requests[0].request_id
    assert reply.headers["request-id"] == here.account().request_id


def test_a_bearer_upstream_at_another_path_gets_its_own_form() -> None:
    with StandIn(api_key=UPSTREAM_KEY).in_thread() as upstream:
        other = provider(f"{upstream.base_url}/anthropic/", auth="bearer")
        with gateway("", providers=[other]) as here:
            assert here.post().status_code == 404  # the stand-in serves no such path
        (seen,) = upstream.requests
        assert seen.target == b"/anthropic/v1/messages"
        assert seen.header("authorization") == b"Bearer sk-ant-the-operators-key"
        assert seen.header("x-api-key") is None


def test_a_non_ascii_header_is_refused(here: Gateway, upstream: ThreadedStandIn) -> None:
    lines: list[tuple[bytes, bytes]] = [(k.encode(), v.encode()) for k, v in HEADERS.items()]
    reply = httpx.post(f"{here.base_url}/v1/messages", headers=[*lines, (b"anthropic-beta", b"b\xc3\xa9")], json=BODY)
    assert reply.status_code == 400
    assert reply.json()["error"]["message"] == "anthropic-beta: header must be printable ASCII"
    assert upstream.requests == []


RECORDED = Path(os.environ.get("BUD_ASGI_RECORDED") or "/nonexistent")
RECORDED_STREAMS = sorted(RECORDED.glob("*.sse"))
RECORDED_JSON = sorted(path for path in RECORDED.glob("*-json-*.json") if b'"error"' not in path.read_bytes()[:40])


def test_recorded_traffic_is_relayed_byte_for_byte(here: Gateway, upstream: ThreadedStandIn) -> None:
    """All of it in one test: the folder is named by `BUD_ASGI_RECORDED`, a user's clone has none."""
    for path in RECORDED_STREAMS:
        wire = path.read_bytes()
        upstream.enqueue(sse(wire), sse(wire, chunk_sizes=[7] * (len(wire) // 7)))
        assert here.post({"stream": True}).content == wire, path.name
        assert here.post({"stream": True}).content == wire, path.name
        assert here.account().outcome == "answered"
    for path in RECORDED_JSON:
        upstream.enqueue(json_body(path.read_bytes()))
        assert here.post().content == path.read_bytes(), path.name

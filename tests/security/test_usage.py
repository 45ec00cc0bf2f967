"""Usage that cannot be dodged: whatever a client or an upstream does, what was delivered is accounted for."""

from __future__ import annotations

import asyncio
import json
import logging
import socket
from collections.abc import Callable, Generator

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route as HostRoute
from support.access import access_records
from support.calls import BODY, UPSTREAM_KEY
from support.gateway import PATIENT, Gateway, gateway, messages_app, provider
from support.ports import nowhere
from support.serving import serving
from support.sockets import raw_request, receive_until
from support.streams import delta, event, start
from support.streams import text as text_event
from support.waiting import wait_until

from bud_asgi import Exchange, Usage
from bud_asgi.testing import Reply, StandIn, ThreadedStandIn, hang, json_body, reset_before_head, sse

PLAIN = json.dumps(BODY).encode()
STREAM = json.dumps({**BODY, "stream": True}).encode()
WORDS = "The quick brown fox jumps over the lazy dog, and then it rests a while. "  # 17 to 18 tokens
BEGINNING = start(input_tokens=1200, output_tokens=1, cache_read_input_tokens=90_000)
OPENED = event("content_block_start", index=0, content_block={"type": "text", "text": ""})
CONTENT = b"".join(text_event(word + " ") for word in (WORDS * 40).split())
TOKENS = 700
"""The tokens of `CONTENT`."""


def breaks_off(wire: bytes) -> Reply:
    return Reply(body=(wire,), end="eof")


def stays_open(wire: bytes) -> Reply:
    return Reply(body=(wire,), end="hang")


@pytest.fixture
def upstream() -> Generator[ThreadedStandIn]:
    with StandIn(api_key=UPSTREAM_KEY).in_thread() as stand_in:
        yield stand_in


@pytest.fixture
def here(upstream: ThreadedStandIn) -> Generator[Gateway]:
    slow = provider(upstream.base_url, timeouts=PATIENT)
    with gateway("", providers=[slow], access_log=True) as one:
        yield one


def assert_estimated(usage: Usage | None, tokens: int = TOKENS) -> None:
    assert usage is not None
    assert usage.estimated
    assert (usage.input_tokens, usage.cache_read_input_tokens) == (1200, 90_000)
    assert usage.output_tokens is not None
    assert tokens / 1.5 < usage.output_tokens < tokens * 1.5


def test_a_client_that_leaves_before_the_final_count_is_charged_for_what_was_delivered(
    here: Gateway, upstream: ThreadedStandIn
) -> None:
    upstream.enqueue(stays_open(BEGINNING + OPENED + CONTENT))
    with raw_request(here.base_url, STREAM) as client:
        receive_until(client, CONTENT[-60:])
    account = here.account()
    assert account.outcome == "client_gone"
    assert_estimated(account.usage)
    assert account.attempts[0].possibly_billed


def test_a_client_that_leaves_after_the_final_count_is_charged_exactly(
    here: Gateway, upstream: ThreadedStandIn
) -> None:
    upstream.enqueue(stays_open(BEGINNING + OPENED + CONTENT + delta(output_tokens=707)))
    with raw_request(here.base_url, STREAM) as client:
        receive_until(client, b"message_delta")
    assert here.account().usage == Usage(1200, 707, cache_read_input_tokens=90_000)


def test_a_stream_that_its_upstream_breaks_off_is_charged_for_what_was_delivered(
    here: Gateway, upstream: ThreadedStandIn
) -> None:
    upstream.enqueue(breaks_off(BEGINNING + OPENED + CONTENT))
    assert here.post({"stream": True}).status_code == 200
    account = here.account()
    assert account.outcome == "upstream_failed"
    assert_estimated(account.usage)


def test_a_stream_that_fails_by_an_error_event_is_charged_for_what_was_delivered(
    here: Gateway, upstream: ThreadedStandIn
) -> None:
    upstream.enqueue(sse(BEGINNING + OPENED + CONTENT + event("error", error={"type": "api_error", "message": "x"})))
    assert here.post({"stream": True}).status_code == 200
    assert_estimated(here.account().usage)


def test_a_stream_that_a_shutdown_ends_is_charged_for_what_was_delivered(upstream: ThreadedStandIn) -> None:
    settled: list[Exchange] = []

    async def on_settled(exchange: Exchange) -> None:
        await asyncio.sleep(0)
        settled.append(exchange)

    async def drain(_request: Request) -> PlainTextResponse:
        await messages.drain(0.05)
        return PlainTextResponse("")

    slow = provider(upstream.base_url, timeouts=PATIENT)
    messages = messages_app("", providers=[slow], on_settled=on_settled)
    host = Starlette(routes=[HostRoute("/drain", drain)])
    messages.install(host, "/llm")
    upstream.enqueue(stays_open(BEGINNING + OPENED + CONTENT))
    with serving(host) as url, raw_request(f"{url}/llm", STREAM) as client:
        receive_until(client, CONTENT[-60:])
        with raw_request_to_drain(url) as drained:
            receive_until(drained, b"200 OK")
        wait_until(lambda: bool(settled), "an account")
    assert settled[0].outcome == "cancelled"
    assert_estimated(settled[0].usage)


@pytest.mark.parametrize("end", ["message_delta without a count", "message_delta without usage", "message_stop alone"])
def test_a_stream_without_a_final_count_is_charged_for_what_was_delivered(
    here: Gateway, upstream: ThreadedStandIn, end: str
) -> None:
    last = {
        "message_delta without a count": delta(output_tokens=None),
        "message_delta without usage": event("message_delta", delta={"stop_reason": "end_turn"}),
        "message_stop alone": b"",
    }[end]
    upstream.enqueue(sse(BEGINNING + OPENED + CONTENT + last + event("message_stop")))
    here.post({"stream": True})
    account = here.account()
    assert account.outcome == "answered"
    assert_estimated(account.usage)


def test_the_count_of_the_start_is_a_placeholder(here: Gateway, upstream: ThreadedStandIn) -> None:
    upstream.enqueue(breaks_off(BEGINNING + OPENED))
    here.post({"stream": True})
    usage = here.account().usage
    assert usage is not None
    assert usage.estimated


@pytest.mark.parametrize("body", [PLAIN, STREAM], ids=["json", "stream"])
def test_a_client_that_leaves_before_the_head_is_charged_for_its_input(
    here: Gateway, upstream: ThreadedStandIn, body: bytes
) -> None:
    body = body.replace(b'"messages"', b'"system": "%b", "messages"' % (WORDS * 100).encode())
    upstream.enqueue(hang())
    with raw_request(here.base_url, body):
        upstream.wait_requests()
    account = here.account()
    assert account.usage is not None
    assert account.usage.estimated
    assert account.usage.output_tokens is None
    assert account.usage.input_tokens is not None
    assert 1750 / 1.5 < account.usage.input_tokens < 1750 * 1.5
    assert account.attempts[0].possibly_billed


def test_a_request_that_was_sent_and_never_answered_is_charged_for_its_input(
    here: Gateway, upstream: ThreadedStandIn
) -> None:
    upstream.enqueue(reset_before_head())
    assert here.post().status_code == 502
    account = here.account()
    assert account.attempts[0].end == "unknown"
    assert account.attempts[0].possibly_billed
    assert account.usage is not None
    assert account.usage.estimated


def test_a_request_that_never_reached_an_upstream_is_not_charged() -> None:
    dead = nowhere()
    with gateway(dead) as here:
        assert here.post().status_code == 502
        account = here.account()
        assert account.usage is None
        assert not account.attempts[0].possibly_billed


def test_a_refused_request_is_not_charged(here: Gateway, upstream: ThreadedStandIn) -> None:
    for status in (400, 429, 503, 529):
        upstream.enqueue(json_body({"type": "error", "error": {"type": "x", "message": "y"}}, status=status))
        upstream.enqueue(Reply(status=status, body=b"<html>"))
    upstream.enqueue(sse(event("error", error={"type": "overloaded_error", "message": "x"})))
    for _ in range(9):
        here.post({"stream": True})
        account = here.account()
        assert account.usage is None
        assert not account.attempts[0].possibly_billed


def _message(usage: str, *, first: bool) -> bytes:
    block = json.dumps({"type": "tool_result", "text": WORDS * 60, "input": {"usage": {"output_tokens": 99}}})
    content = f'"content":[{",".join([block] * 1200)}]'
    parts = [f'"usage":{usage}', content] if first else [content, f'"usage":{usage}']
    return f'{{"id":"msg_1","type":"message",{",".join(parts)},"stop_reason":"end_turn"}}'.encode()


@pytest.mark.parametrize("first", [True, False], ids=["usage first", "usage last"])
def test_the_usage_of_a_json_reply_of_any_size_is_read(here: Gateway, upstream: ThreadedStandIn, first: bool) -> None:
    body = _message('{"input_tokens":12,"output_tokens":34,"server_tool_use":{"web_fetch_requests":2}}', first=first)
    assert len(body) > 5_000_000
    upstream.enqueue(json_body(body))
    assert here.post().content == body
    usage = here.account().usage
    assert usage is not None
    assert usage.server_tool_use is not None
    assert (usage.input_tokens, usage.output_tokens, usage.server_tool_use.web_fetch_requests) == (12, 34, 2)


def test_a_later_report_cannot_lower_a_count(here: Gateway, upstream: ThreadedStandIn) -> None:
    last = delta(input_tokens=0, cache_read_input_tokens=0, output_tokens=7)
    upstream.enqueue(sse(BEGINNING + OPENED + last + event("message_stop")))
    here.post({"stream": True})
    assert here.account().usage == Usage(1200, 7, cache_read_input_tokens=90_000)


def _without_names(wire: bytes) -> bytes:
    return b"\n".join(line for line in wire.split(b"\n") if not line.startswith(b"event:"))


REWRITES: dict[str, Callable[[bytes], bytes]] = {
    "no names": _without_names,
    "CRLF": lambda wire: wire.replace(b"\n", b"\r\n"),
    "CR": lambda wire: wire.replace(b"\n", b"\r"),
    "another name": lambda wire: wire.replace(b"event: message_delta", b"event: message"),
    "compact": lambda wire: wire.replace(b'": ', b'":').replace(b', "', b',"'),
}


@pytest.mark.parametrize("rewrite", REWRITES.values(), ids=REWRITES.keys())
def test_the_form_of_a_stream_does_not_change_its_count(
    here: Gateway, upstream: ThreadedStandIn, rewrite: Callable[[bytes], bytes]
) -> None:
    upstream.enqueue(sse(rewrite(BEGINNING + OPENED + CONTENT + delta(output_tokens=707) + event("message_stop"))))
    upstream.enqueue(breaks_off(rewrite(BEGINNING + OPENED + CONTENT)))
    here.post({"stream": True})
    assert here.account().usage == Usage(1200, 707, cache_read_input_tokens=90_000)
    assert here.account().outcome == "answered"
    here.post({"stream": True})
    assert_estimated(here.account().usage)


def test_the_access_log_shows_all_that_is_billed(
    here: Gateway, upstream: ThreadedStandIn, caplog: pytest.LogCaptureFixture
) -> None:
    usage = {
        "input_tokens": 2,
        "output_tokens": 1117,
        "cache_read_input_tokens": 589_733,
        "cache_creation_input_tokens": 11,
        "cache_creation": {"ephemeral_5m_input_tokens": 4, "ephemeral_1h_input_tokens": 7},
        "output_tokens_details": {"thinking_tokens": 5},
        "server_tool_use": {"web_search_requests": 3, "web_fetch_requests": 0, "new_requests": 1},
        "service_tier": "priority",
        "speed": "fast",
    }
    upstream.enqueue(json_body({"id": "msg_1", "type": "message", "content": [], "usage": usage}))
    upstream.enqueue(breaks_off(BEGINNING + OPENED + CONTENT))
    with caplog.at_level(logging.INFO, "bud_asgi.access"):
        here.post()
        here.post({"stream": True})
        here.accounts(2)
    exact, estimated = access_records(caplog)
    assert {
        "input_tokens": 2,
        "output_tokens": 1117,
        "cache_read_input_tokens": 589_733,
        "cache_creation_input_tokens": 11,
        "ephemeral_5m_input_tokens": 4,
        "ephemeral_1h_input_tokens": 7,
        "thinking_tokens": 5,
        "server_tool_use": {"web_search_requests": 3, "new_requests": 1},
        "service_tier": "priority",
        "speed": "fast",
    }.items() <= exact.items()
    assert "estimated" not in exact
    assert (estimated["estimated"], estimated["cache_read_input_tokens"]) == (True, 90_000)


def raw_request_to_drain(url: str) -> socket.socket:
    host, _, port = url.removeprefix("http://").partition(":")
    peer = socket.create_connection((host, int(port)), 5)
    peer.sendall(b"GET /drain HTTP/1.1\r\nhost: x\r\n\r\n")
    return peer

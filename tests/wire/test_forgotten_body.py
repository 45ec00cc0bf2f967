"""An open stream keeps nothing of its request, and of its reply nothing that has been delivered."""

from __future__ import annotations

import json
import tracemalloc
from collections.abc import Generator

import pytest
from msgspec.structs import replace
from support.calls import BODY, UPSTREAM_KEY
from support.gateway import PATIENT, gateway, provider
from support.memory import reply_bytes, request_body_bytes
from support.sockets import raw_request, receive_until
from support.waiting import wait_until

from bud_asgi import Route, Target
from bud_asgi.testing import Reply, StandIn, error, hang_mid_event, late

SIZE = 8 << 20
SENT = json.dumps({**BODY, "stream": True, "system": "x" * SIZE}).encode()
MAPPED = [Route("*", to=[Target("anthropic", "claude-opus-5")])]


@pytest.fixture
def traced() -> Generator[None]:
    tracemalloc.start()
    yield
    tracemalloc.stop()


@pytest.mark.parametrize("routes", [None, MAPPED], ids=["as is", "mapped"])
@pytest.mark.usefixtures("traced")
def test_the_body_is_released_when_the_response_begins(routes: list[Route] | None) -> None:
    with StandIn(api_key=UPSTREAM_KEY, strict=False).in_thread() as upstream:
        upstream.enqueue(late(0.3, hang_mid_event()))
        slow = provider(upstream.base_url, timeouts=PATIENT)
        with gateway("", providers=[slow], routes=routes) as here:
            with raw_request(here.base_url, SENT, timeout=30) as client:
                upstream.wait_requests(timeout=30)
                assert request_body_bytes() >= SIZE
                receive_until(client, b"content_block_delta")
                wait_until(lambda: request_body_bytes() < 100_000, "the body is gone")
            assert here.account().outcome == "client_gone"
            assert here.account().account_state == set()


THOUGHT = {"type": "thinking", "thinking": "", "signature": "x"}
HISTORY = [*BODY["messages"], {"role": "assistant", "content": [THOUGHT, {"type": "text", "text": "x" * SIZE}]}]
REFUSAL = "messages.1.content.0: Invalid `signature` in `thinking` block"


@pytest.mark.usefixtures("traced")
def test_so_is_the_copy_of_a_request_without_thinking() -> None:
    routes = [Route("*", to=["anthropic"], retry_without_thinking=True)]
    sent = json.dumps({**BODY, "stream": True, "messages": HISTORY}).encode()
    with StandIn(api_key=UPSTREAM_KEY, strict=False).in_thread() as upstream:
        upstream.enqueue(error(400, "invalid_request_error", REFUSAL), late(0.3, hang_mid_event()))
        slow = provider(upstream.base_url, timeouts=PATIENT)
        with (
            gateway("", providers=[slow], routes=routes) as here,
            raw_request(here.base_url, sent, timeout=30) as client,
        ):
            upstream.wait_requests(2, timeout=30)
            receive_until(client, b"content_block_delta")
            wait_until(lambda: request_body_bytes() < 100_000, "the body is gone")
        assert [len(one.json()["messages"][1]["content"]) for one in upstream.requests] == [2, 1]


LARGE = "x" * 10_000
START = {"type": "message_start", "message": {"id": LARGE, "usage": {"input_tokens": 1}}}
DELTA = {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": LARGE}}
FIRST, NEXT = (f"data: {json.dumps(event)}\n\n".encode() for event in (START, DELTA))


@pytest.mark.usefixtures("traced")
def test_an_idle_stream_keeps_neither_the_head_nor_the_events_of_its_reply() -> None:
    headers = (("content-type", "text/event-stream"), ("x-large", LARGE))
    events = Reply(headers=headers, body=FIRST + NEXT, framing="chunked", cut=len(FIRST + NEXT), end="hang")
    with StandIn(api_key=UPSTREAM_KEY, strict=False).in_thread() as upstream:
        upstream.enqueue(replace(events, stall=(len(FIRST), 0.1)))
        with (
            gateway("", providers=[provider(upstream.base_url, timeouts=PATIENT)]) as here,
            raw_request(here.base_url, json.dumps({**BODY, "stream": True}).encode(), timeout=30) as client,
        ):
            receive_until(client, LARGE.encode() + b'"}}\n\n')
            wait_until(lambda: reply_bytes() < len(LARGE), "the reply is gone")

"""What comes back: rows 13 to 19, 31, 32, 44, rules 7 to 11, 15."""

from __future__ import annotations

import json
import re
import time
from concurrent.futures import ThreadPoolExecutor

from support.streams import parse, parse_as_the_sdk_does
from support.waiting import wait_until

from bud_asgi import Limit
from bud_asgi.clock import Timing
from bud_asgi.protocol.usage import Usage
from bud_asgi.testing import (
    Reply,
    cut_before_message_stop,
    empty,
    eof_mid_event,
    html,
    json_body,
    late,
    reset_mid_event,
    sse,
    text,
)
from contract.line import PLAIN, STREAM, Line, timed
from contract.quirks import BLOCK, COMMENT, ERRORS, MESSAGES, PING, STREAMS, closed, ending, event, start
from contract.quirks import text as said

ACCOUNT = {
    "anthropic-ratelimit-unified-status": "allowed",
    "anthropic-ratelimit-unified-5h-utilization": "0.87",
    "anthropic-ratelimit-requests-remaining": "3999",
    "anthropic-organization-id": "11111111-2222-4333-8444-555555555555",
    "anthropic-workspace-id": "wrkspc_01Q",
}


def each_event_is_passed_on_when_it_comes(line: Line) -> None:
    """Row 13: each event arrives before the upstream sends the next one, uncompressed."""
    first, second = start() + BLOCK, said("Well, ")
    line.upstream.enqueue(Reply(body=(first, second), end="hang"))
    with line.stream() as listener:
        assert listener.status == 200
        assert listener.headers.get("content-encoding") is None
        assert listener.until(second).startswith(first + second)


def pings_and_comments_are_passed_on_when_they_come(line: Line) -> None:
    """Row 14, rule 10."""
    for sign in (PING, COMMENT):
        line.upstream.enqueue(Reply(body=(start(), BLOCK + sign), end="hang"))
        with line.stream() as listener:
            assert listener.until(sign).startswith(start() + BLOCK + sign)


def silence_is_filled_with_pings(line: Line) -> None:
    """Row 15, rule 10: between events, and before the first of them."""
    assert Timing().ping_after <= 15
    with timed(line, ping_after=0.2):
        line.upstream.enqueue(Reply(body=(start(), BLOCK), end="hang"), late(0.6, sse(STREAMS["a ping at once"])))
        with line.stream() as listener:
            heard = listener.until(BLOCK + PING + PING)  # one may stand before it all, on a slow machine
            assert heard.startswith((start(), PING + start()))
            assert start() + BLOCK + PING in heard
        whole = line.request(STREAM).body
    before = whole.removesuffix(STREAMS["a ping at once"])
    assert before
    assert before == PING * (len(before) // len(PING))


def _assert_ends_by_an_error(line: Line, fault: Reply) -> None:
    line.upstream.enqueue(fault)
    answer = line.request(STREAM)
    assert answer.status == 200
    events = parse(answer.body)
    assert parse_as_the_sdk_does(answer.body)[-1][0] == "error"
    assert [name for name, _ in events].count("error") == 1
    name, data = events[-1]
    told = json.loads(data.splitlines()[-1])
    assert (name, told["type"], told["error"]["type"]) == ("error", "error", "api_error")
    assert told["request_id"] == answer.headers.get("request-id")


def a_stream_that_breaks_ends_by_an_error(line: Line) -> None:
    """Row 16, rule 9: also one that ends as if it were whole."""
    for fault in (reset_mid_event(), eof_mid_event(), cut_before_message_stop(), cut_before_message_stop(clean=True)):
        _assert_ends_by_an_error(line, fault)


def a_client_that_leaves_ends_the_call(line: Line) -> None:
    """Row 17: within seconds, and the record has the usage so far."""
    line.upstream.enqueue(text("word " * 400, delay=0.02))
    with line.stream() as listener:
        listener.until(b"content_block_delta")
    seen = line.the_received()
    wait_until(lambda: seen.aborted is not None, "the upstream request has ended", line.within)
    account = line.account_of(listener)
    assert account.outcome == "client_gone"
    assert account.usage is not None
    assert account.usage.input_tokens is not None


RETRY = {"retry-after": "7", "retry-after-ms": "6500", "x-should-retry": "true"}


def errors_pass_as_they_came(line: Line) -> None:
    """Row 18, rule 11: before a stream too; `retry-after` is forwarded, headers of the account are not."""
    for what, (status, told) in ERRORS.items():
        for content in (PLAIN, STREAM):
            line.upstream.enqueue(json_body(told, status=status, headers={**RETRY, **ACCOUNT}))
            began = time.monotonic()
            answer = line.request(content)
            assert time.monotonic() - began < line.within
            assert (answer.status, answer.body) == (status, told), what
            assert {name: answer.headers.get(name) for name in RETRY} == RETRY
            assert not set(ACCOUNT) & set(answer.headers)


def a_reply_of_a_middlebox_becomes_an_error(line: Line) -> None:
    """Row 19: pages, nothing at all, somebody else's JSON. An error keeps its status."""
    strange = json_body({"errors": [{"code": 1}]}, status=503)
    faults = {html(): 502, html(403): 502, html(503): 503, empty(): 502, empty(500): 500, strange: 503, sse(b""): 502}
    for fault, status in faults.items():
        for content in (PLAIN, STREAM):
            line.upstream.enqueue(fault)
            line.request(content).assert_error(status, "api_error")


def an_exhausted_budget_has_the_time_of_its_reset(line: Line) -> None:
    """Row 31: which period, when it ends, and that trying again before is pointless."""
    with line.with_options(limits=[Limit("requests", 1, window=86_400.0)]) as other:
        assert other.request().status == 200
        answer = other.request()
    message = answer.assert_error(429, "rate_limit_error")
    assert re.search(r"86400 seconds|24 hours|day", message), message
    assert re.search(r"reset|again|until", message), message
    assert int(answer.headers.get("retry-after", "0")) > 3600
    assert answer.headers.get("x-should-retry") == "false"
    assert len(line.received) == 1


def headers_of_the_shared_account_are_not_forwarded(line: Line) -> None:
    """Row 32."""
    for content, reply in ((PLAIN, json_body(MESSAGES["on one line"], headers=ACCOUNT)), (STREAM, text("Hi"))):
        line.upstream.enqueue(reply)
        answer = line.request(content)
        assert answer.status == 200
        assert not [name for name in answer.headers if name.startswith("anthropic-")]


def equal_requests_are_two_requests(line: Line) -> None:
    """Row 44: neither joined nor remembered."""
    answers = [json_body({"type": "message", "content": [], "id": f"msg_{n}"}) for n in range(3)]
    line.upstream.enqueue(*(late(0.1, reply) for reply in answers))
    with ThreadPoolExecutor(2) as pool:
        told = list(pool.map(line.request, (PLAIN, PLAIN)))
    told.append(line.request())
    assert sorted(answer.json()["id"] for answer in told) == ["msg_0", "msg_1", "msg_2"]
    assert len(line.received) == 3


def streams_are_passed_on_as_bytes(line: Line) -> None:
    """Rule 7: line breaks of Unicode are letters; rule 8: names of events stay; the last blank line too."""
    for what, wire in STREAMS.items():
        line.upstream.enqueue(sse(wire))
        answer = line.request(STREAM)
        assert answer.body == wire, what
        assert answer.headers.get("content-type") == "text/event-stream; charset=utf-8"


def every_event_has_its_name(line: Line) -> None:
    """Rule 8: also the gateway's own events."""
    with timed(line, ping_after=0.2):
        line.upstream.enqueue(Reply(body=(start(), BLOCK), stall=(len(start()), 0.6), end="eof"))
        answer = line.request(STREAM)
    events = parse(answer.body)
    assert {"ping", "error"} <= {name for name, _ in events}
    assert [(name, json.loads(data)["type"]) for name, data in events] == [(name, name) for name, _ in events]


def the_last_reported_usage_counts(line: Line) -> None:
    """Rule 15: counts are totals that are repeated; a null is ignored."""
    twice = event(
        "message_delta", delta={}, usage={"input_tokens": 60, "output_tokens": 4, "cache_read_input_tokens": 5}
    )
    wire = start() + BLOCK + said("Hi") + closed(0) + twice + ending(input_tokens=None, output_tokens=9)
    line.upstream.enqueue(sse(wire))
    answer = line.request(STREAM)
    assert answer.body == wire
    assert line.account_of(answer).usage == Usage(60, 9, None, 5)

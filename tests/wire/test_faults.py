"""Faults of an upstream: what the client gets, what the upstream sees, what the record holds; nothing stays open."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import anthropic
import httpx
import pytest
from msgspec.structs import replace
from support.calls import KEY, MODEL, UPSTREAM_KEY
from support.counts import count
from support.gateway import Gateway, gateway, impatient, provider
from support.ports import nowhere
from support.waiting import wait_until

from bud_asgi import Limit, MemoryStore, Middleware, RateLimitMiddleware, Route
from bud_asgi.clock import Timing
from bud_asgi.http import Timeouts
from bud_asgi.protocol.sse import PING
from bud_asgi.testing import (
    Reply,
    StandIn,
    ThreadedStandIn,
    close_after,
    close_on_reuse,
    cut_before_message_stop,
    empty,
    endless_1xx,
    endless_headers,
    eof_before_head,
    eof_mid_event,
    error,
    error_first_event,
    error_mid_stream,
    garbage_chunks,
    gzip_unasked,
    hang,
    hang_mid_event,
    html,
    huge_line,
    late,
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
)

CLOSED = "The upstream closed the connection before its answer was whole."
NOT_HTTP = "The upstream's answer was malformed."
SLOW = "The upstream did not answer in time."
NOT_A_STREAM = "The upstream's answer was not an event stream."

BEFORE_THE_ANSWER: dict[str, tuple[Callable[[], Reply], int, str, str | tuple[str, str]]] = {
    "never answers": (hang, 504, "timeout_error", SLOW),
    "resets in place of an answer": (reset_before_head, 502, "api_error", CLOSED),
    "closes in place of an answer": (eof_before_head, 502, "api_error", CLOSED),
    "resets after the head": (reset_after_head, 502, "api_error", CLOSED),
    "a page of a middlebox": (html, 502, "api_error", ("The upstream's answer was not JSON.", NOT_A_STREAM)),
    "a page of a middlebox, 503": (
        lambda: html(503),
        503,
        "api_error",
        "The upstream answered 503 without an error object.",
    ),
    "an empty 200": (empty, 502, "api_error", ("The upstream's answer was not a Message.", NOT_A_STREAM)),
    "an empty 500": (lambda: empty(500), 500, "api_error", "The upstream answered 500 without an error object."),
    "a redirect": (
        lambda: redirect("http://127.0.0.1:9/"),
        502,
        "api_error",
        "The upstream answered 302 where a Message was expected.",
    ),
    "compressed, and cut": (lambda: replace(gzip_unasked(), cut=30), 502, "api_error", NOT_HTTP),
    "heads without end": (endless_1xx, 502, "api_error", NOT_HTTP),
    "headers without end": (endless_headers, 502, "api_error", NOT_HTTP),
    "not HTTP": (lambda: raw(b"SSH-2.0-OpenSSH_9.2\r\n"), 502, "api_error", NOT_HTTP),
}
"""What goes wrong, then the status, type and message of the error; two messages where a stream has another one."""


@pytest.mark.parametrize("stream", [False, True], ids=["json", "stream"])
@pytest.mark.parametrize(
    ("fault", "status", "kind", "message"), BEFORE_THE_ANSWER.values(), ids=BEFORE_THE_ANSWER.keys()
)
def test_a_failure_before_the_answer_is_a_real_status(
    here: Gateway,
    upstream: ThreadedStandIn,
    fault: Callable[[], Reply],
    status: int,
    kind: str,
    message: str | tuple[str, str],
    stream: bool,
) -> None:
    upstream.enqueue(fault())
    with impatient(here, fault()):
        reply = here.post({"stream": stream})
    assert reply.status_code == status, reply.text
    body = reply.json()
    assert body["error"]["type"] == kind
    assert body["error"]["message"] == (message if isinstance(message, str) else message[stream])
    assert body["request_id"] == reply.headers["request-id"]
    assert "x-should-retry" not in reply.headers
    account = here.account()
    assert account.outcome == "upstream_failed"
    assert len(account.attempts) == 1
    assert account.attempts[0].failure
    assert len(upstream.requests) == 1
    if not account.attempts[0].possibly_billed:
        assert account.usage is None
    else:
        assert account.usage is not None
        assert (account.usage.estimated, account.usage.output_tokens) == (True, None)


def test_a_short_json_body_is_502(here: Gateway, upstream: ThreadedStandIn) -> None:
    upstream.enqueue(short_content_length())
    reply = here.post()
    assert (reply.status_code, reply.json()["error"]["message"]) == (502, CLOSED)


def test_a_deadline_is_kept(upstream: ThreadedStandIn) -> None:
    slow = provider(upstream.base_url, timeouts=Timeouts(30.0, 0.5, 30.0))
    upstream.enqueue(hang())
    with gateway("", providers=[slow]) as here:
        began = time.monotonic()
        assert here.post().status_code == 504
        assert 0.4 <= time.monotonic() - began < 15
        upstream.wait_aborted(30.0)
        here.assert_nothing_open()


def events_of(body: bytes) -> list[tuple[str, str]]:
    """An independent reading of an event stream: every event has a name and data, and the last blank line is there."""
    assert body.endswith(b"\n\n"), body[-80:]
    events: list[tuple[str, str]] = []
    for block in body.decode().strip("\n").split("\n\n"):
        name, data = "message", list[str]()
        for line in block.split("\n"):
            if line.startswith("event: "):
                name = line[7:]
            elif line.startswith("data: "):
                data.append(line[6:])
        events.append((name, "\n".join(data)))
    return events


MID_STREAM: dict[str, tuple[Callable[[], Reply], str, str]] = {
    "reset in an event": (reset_mid_event, "api_error", CLOSED),
    "closed in an event": (eof_mid_event, "api_error", CLOSED),
    "ended in an event": (
        lambda: eof_mid_event(clean=True),
        "api_error",
        "The upstream ended its stream before the message was whole.",
    ),
    "silent in an event": (hang_mid_event, "timeout_error", SLOW),
    "closed before message_stop": (cut_before_message_stop, "api_error", CLOSED),
    "ended before message_stop": (
        lambda: cut_before_message_stop(clean=True),
        "api_error",
        "The upstream ended its stream before the message was whole.",
    ),
    "chunks that are none": (garbage_chunks, "api_error", NOT_HTTP),
}


@pytest.mark.parametrize(("fault", "kind", "message"), MID_STREAM.values(), ids=MID_STREAM.keys())
def test_a_failure_in_mid_stream_is_exactly_one_error_event(
    here: Gateway, upstream: ThreadedStandIn, fault: Callable[[], Reply], kind: str, message: str
) -> None:
    upstream.enqueue(fault())
    with impatient(here, fault()):
        reply = here.post({"stream": True})
    assert reply.status_code == 200
    events = events_of(reply.content)
    assert [name for name, _ in events].count("error") == 1
    assert events[0][0] == "message_start"
    name, data = events[-1]
    assert name == "error"
    assert f'"type":"{kind}","message":"{message}"' in data
    assert f'"request_id":"{reply.headers["request-id"]}"' in data
    account = here.account()
    assert account.outcome == "upstream_failed"
    if fault is not garbage_chunks:  # its message_start tells no usage
        assert account.usage is not None
        assert account.usage.input_tokens is not None


def test_usage_is_exact_when_the_cut_comes_after_message_delta(here: Gateway, upstream: ThreadedStandIn) -> None:
    upstream.enqueue(text("Hello there"), cut_before_message_stop(text("Hello there")))
    here.post({"stream": True})
    whole = here.account().usage
    here.post({"stream": True})
    assert here.account().usage == whole
    assert here.account().outcome == "upstream_failed"


def test_the_sdk_raises_on_every_cut(here: Gateway, upstream: ThreadedStandIn) -> None:
    said = "Wörter mit Umlauten, 漢字 and 😀 emoji"
    with anthropic.Anthropic(base_url=here.base_url, api_key=KEY, max_retries=0) as client:
        for position in range(300, 1500, 37):
            upstream.enqueue(eof_mid_event(position, text(said)))
            with (
                pytest.raises(anthropic.APIStatusError) as raised,
                client.messages.stream(
                    model=MODEL, max_tokens=50, messages=[{"role": "user", "content": "x"}]
                ) as stream,
            ):
                stream.until_done()
            assert CLOSED in str(raised.value), position


def test_an_error_in_place_of_the_first_event_is_a_real_status(here: Gateway, upstream: ThreadedStandIn) -> None:
    upstream.enqueue(error_first_event("overloaded_error", "Overloaded"))
    reply = here.post({"stream": True})
    assert reply.status_code == 529
    assert reply.headers["content-type"] == "application/json"
    assert reply.json()["error"] == {"type": "overloaded_error", "message": "Overloaded"}


def test_an_upstreams_own_error_event_is_the_only_one(here: Gateway, upstream: ThreadedStandIn) -> None:
    upstream.enqueue(error_mid_stream("overloaded_error", "Overloaded"))
    events = events_of(here.post({"stream": True}).content)
    assert [name for name, _ in events].count("error") == 1
    assert "Overloaded" in events[-1][1]
    assert here.account().outcome == "upstream_failed"


ERRORS: dict[str, tuple[int, str, str, dict[str, str]]] = {
    "a refused request": (400, "invalid_request_error", "prompt is too long: 208310 tokens > 200000 maximum", {}),
    "a rate limit": (429, "rate_limit_error", "slow down", {"retry-after": "7", "x-should-retry": "true"}),
    "overloaded": (529, "overloaded_error", "Overloaded", {"retry-after-ms": "1500"}),
    "an unknown model": (404, "not_found_error", "model: x", {}),
    "the account's budget": (402, "billing_error", "pay", {}),
    "forbidden with a code": (403, "permission_error", "no", {}),
}


@pytest.mark.parametrize("stream", [False, True], ids=["json", "stream"])
@pytest.mark.parametrize(("status", "kind", "message", "headers"), ERRORS.values(), ids=ERRORS.keys())
def test_an_upstreams_error_passes_byte_for_byte(
    here: Gateway,
    upstream: ThreadedStandIn,
    status: int,
    kind: str,
    message: str,
    headers: dict[str, str],
    stream: bool,
) -> None:
    details = {"error_code": "user_profile_not_billable"} if status == 403 else None
    upstream.enqueue(error(status, kind, message, details=details, headers=headers))
    reply = here.post({"stream": stream})
    assert reply.status_code == status
    assert reply.json()["error"]["type"] == kind
    assert reply.json()["error"]["message"] == message
    assert reply.json()["request_id"] == reply.headers["upstream-request-id"] == upstream.requests[0].request_id
    assert reply.headers["request-id"] != reply.headers["upstream-request-id"]
    for name, value in headers.items():
        assert reply.headers[name] == value
    assert here.account().outcome == "answered"


@pytest.mark.parametrize("status", [401, 403])
def test_an_upstream_error_about_our_credential_is_not_forwarded(
    here: Gateway, upstream: ThreadedStandIn, status: int, caplog: pytest.LogCaptureFixture
) -> None:
    said = "the key sk-ant-the-operators-key is not allowed"
    upstream.enqueue(error(status, "authentication_error", said, headers={"x-should-retry": "false"}))
    reply = here.post()
    assert reply.status_code == 502
    assert reply.json()["error"] == {"type": "api_error", "message": "upstream authentication failed"}
    here.account()
    assert "the key [secret] is not allowed" in caplog.text
    assert UPSTREAM_KEY not in caplog.text + reply.text + str(reply.headers)


@pytest.mark.parametrize("status", [400, 429, 500])
def test_an_error_that_contains_our_credential_is_never_relayed(
    here: Gateway, upstream: ThreadedStandIn, status: int, caplog: pytest.LogCaptureFixture
) -> None:
    upstream.enqueue(error(status, "invalid_request_error", "Incorrect API key: sk-ant-the-operators-key."))
    reply = here.post()
    assert reply.status_code == 502
    here.account()
    assert UPSTREAM_KEY not in caplog.text + reply.text


def test_a_rejected_credential_of_the_operator_is_a_502() -> None:
    with StandIn(api_key="another").in_thread() as upstream, gateway(upstream.base_url) as here:
        assert here.post().status_code == 502


def test_a_refused_connection_is_502_and_the_next_target_is_tried(upstream: ThreadedStandIn) -> None:
    dead = nowhere()
    with gateway(dead) as here:
        reply = here.post()
        assert (reply.status_code, reply.json()["error"]["message"]) == (502, "The upstream could not be reached.")
        assert dead.removeprefix("http://") not in reply.text
    providers = [provider(dead, name="dead"), provider(upstream.base_url, name="live")]
    with gateway("", providers=providers, routes=[Route("*", to=["dead", "live"])]) as here:
        assert here.post().status_code == 200
        assert [attempt.target.provider for attempt in here.account().attempts] == ["dead", "live"]
        here.assert_nothing_open()


THREE = ["one", "two", "three"]


def test_a_request_that_may_have_been_processed_is_sent_to_one_other_target(upstream: ThreadedStandIn) -> None:
    providers = [provider(upstream.base_url, name=name) for name in THREE]
    upstream.enqueue(reset_before_head())
    with gateway("", providers=providers, routes=[Route("*", to=THREE)]) as here:
        assert here.post().status_code == 200
        first, second = here.account().attempts
        assert (first.end, second.end) == ("unknown", "answered")
        assert first.usage is not None
        assert first.usage.estimated


def test_a_request_that_may_have_been_processed_twice_is_not_sent_again(upstream: ThreadedStandIn) -> None:
    providers = [provider(upstream.base_url, name=name) for name in THREE]
    upstream.enqueue(reset_before_head(), reset_before_head())
    with gateway("", providers=providers, routes=[Route("*", to=THREE)]) as here:
        assert here.post().status_code == 502
        account = here.account()
        assert [attempt.end for attempt in account.attempts] == ["unknown", "unknown"]
        assert account.usage is not None
        assert [attempt.usage is None for attempt in account.attempts] == [False, True]
        assert len(upstream.requests) == 2


@pytest.mark.parametrize("kind", ["wrong-name", "expired", "unknown-ca"])
def test_a_bad_certificate_is_502_and_gets_no_request(kind: Any) -> None:
    with StandIn(api_key="k", tls=kind).in_thread() as upstream:
        tls = upstream.ca if kind != "unknown-ca" else None
        with gateway("", providers=[provider(upstream.base_url, tls=tls)]) as here:
            reply = here.post()
            assert (reply.status_code, reply.json()["error"]["message"]) == (502, "The upstream could not be reached.")
            assert "certificate" in (here.account().attempts[0].failure or "")
        assert upstream.requests == []


def test_a_good_certificate_is_served() -> None:
    with (
        StandIn(api_key=UPSTREAM_KEY, tls="good").in_thread() as upstream,
        gateway("", providers=[provider(upstream.base_url, tls=upstream.ca)]) as here,
    ):
        assert here.post().status_code == 200
        assert events_of(here.post({"stream": True}).content)[-1][0] == "message_stop"


@pytest.mark.parametrize("dies", [close_after(), close_on_reuse(), close_on_reuse(reset=True)])
def test_a_kept_connection_that_dies_on_reuse_costs_the_client_nothing(
    here: Gateway, upstream: ThreadedStandIn, dies: Reply
) -> None:
    for _ in range(5):
        upstream.enqueue(dies)
        assert here.post().status_code == 200
        assert here.post().status_code == 200
    wait_until(lambda: sum(request.done for request in upstream.requests) == 10, "ten answered requests")


def test_a_second_unrequested_reply_is_discarded(here: Gateway, upstream: ThreadedStandIn) -> None:
    upstream.enqueue(surplus(), text("mine"))
    assert here.post().status_code == 200
    # Once the next request is on its way, such a reply cannot be distinguished from its own.
    wait_until(lambda: upstream.requests[0].done, "the second reply is written")
    assert here.post().json()["content"][0]["text"] == "mine"


def test_every_byte_in_a_segment_of_its_own_gives_the_same_bytes(here: Gateway, upstream: ThreadedStandIn) -> None:
    upstream.enqueue(text("Hello there"), one_byte_per_segment(text("Hello there")))
    first, second = (here.post({"stream": True}).content for _ in range(2))
    assert events_of(first)[-1][0] == events_of(second)[-1][0] == "message_stop"
    assert len(events_of(first)) == len(events_of(second))


def test_a_pause_before_the_first_event_is_waited_for_two_seconds_then_committed(
    upstream: ThreadedStandIn,
) -> None:
    assert Timing().commit_after == 2.0
    upstream.enqueue(stall(3.0, after_bytes=0))
    with gateway(upstream.base_url, timing=Timing(commit_after=0.5)) as here:
        began = time.monotonic()
        with httpx.stream(
            "POST",
            f"{here.base_url}/v1/messages",
            headers={"x-api-key": KEY, "anthropic-version": "2023-06-01"},
            json={"model": MODEL, "max_tokens": 9, "messages": [{"role": "user", "content": "x"}], "stream": True},
            timeout=30,
        ) as reply:
            assert 0.4 <= time.monotonic() - began < 2.9
            assert events_of(reply.read())[-1][0] == "message_stop"


def test_silence_is_covered_by_pings_between_events_only(
    upstream: ThreadedStandIn,
) -> None:
    start = b'event: message_start\ndata: {"type":"message_start","message":{}}\n\n'
    half, rest = b"event: content_block_delta\ndata: {", b"}\n\n"
    stop = b'event: message_stop\ndata: {"type":"message_stop"}\n\n'
    upstream.enqueue(sse(start + half + rest + stop, chunk_sizes=[len(start), len(half), len(rest)], delay=0.4))
    with gateway(upstream.base_url, timing=Timing(tick=0.02, ping_after=0.1)) as here:
        body = here.post({"stream": True}).content
    assert body.replace(PING, b"") == start + half + rest + stop
    assert half + rest in body
    assert body.count(PING) >= 2
    assert body.endswith(stop)


def test_a_slow_answer_is_not_a_failed_one(here: Gateway, upstream: ThreadedStandIn) -> None:
    upstream.enqueue(late(0.7))
    assert here.post().status_code == 200


@pytest.mark.torture
def test_a_line_of_many_megabytes_goes_through(here: Gateway, upstream: ThreadedStandIn) -> None:
    length = count(20_000_000, 100_000_000)
    upstream.enqueue(huge_line(length))
    size, last = 0, b""
    with httpx.stream(
        "POST",
        f"{here.base_url}/v1/messages",
        headers={"x-api-key": KEY, "anthropic-version": "2023-06-01"},
        json={"model": MODEL, "max_tokens": 9, "messages": [{"role": "user", "content": "x"}], "stream": True},
        timeout=30,
    ) as reply:
        for chunk in reply.iter_raw():
            size += len(chunk)
            last = (last + chunk)[-200:]
    assert size > length
    assert b"message_stop" in last
    assert here.account().outcome == "answered"


def test_reservations_are_settled_on_every_way_out(upstream: ThreadedStandIn) -> None:
    from bud_asgi import ApiKeys, AuthMiddleware, hash_api_key

    store = MemoryStore()
    stack = [
        Middleware(AuthMiddleware, backend=ApiKeys({"me": hash_api_key(KEY)})),
        Middleware(RateLimitMiddleware, limits=[Limit("requests", 100)], store=store),
    ]
    with gateway(upstream.base_url, middleware=stack) as here:
        for fault in (hang, reset_before_head, reset_mid_event, html, cut_before_message_stop):
            upstream.enqueue(fault())
            with impatient(here, fault()):
                here.post({"stream": True})
        here.post(b"not json")
        here.post()
        here.accounts(7)
        here.assert_nothing_open()
    assert store.open == 0

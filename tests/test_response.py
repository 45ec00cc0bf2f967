"""The response: its states, what a failure becomes in each of them, and how an exchange ended."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import get_args

import pytest
from starlette.types import Message
from support.asgi import Sent, http_scope
from support.streams import STOP, start

from bud_asgi.attempt import Attempt, Target
from bud_asgi.clock import DEFAULT_TIMING, Timing
from bud_asgi.exchange import Exchange
from bud_asgi.protocol.errors import (
    ClientGone,
    GatewayError,
    InvalidRequest,
    MethodNotAllowed,
    Outcome,
    ShuttingDown,
)
from bud_asgi.protocol.sse import PING, STREAM_HEADERS, EventStream, error_event
from bud_asgi.providers import TranslatedUpstreamError, UpstreamErrorResponse, UpstreamUnavailable
from bud_asgi.response import Response
from bud_asgi.response_state import TRANSITIONS, Action, State


def body_of(sent: Sent) -> bytes:
    """All that has been sent so far, whether or not the response has ended."""
    return b"".join(message.get("body", b"") for message in sent.messages)


BROKEN = UpstreamUnavailable("The upstream closed the connection before its answer was whole.")


def response_of(*, method: str = "POST", timing: Timing = DEFAULT_TIMING) -> tuple[Response, Exchange, Sent]:
    exchange, sent = Exchange.of({**http_scope([]), "method": method}), Sent()
    return Response(exchange, sent, timing), exchange, sent


@asynccontextmanager
async def boundary(response: Response) -> AsyncGenerator[None]:
    """What the gateway does around the code that answers a request."""
    try:
        yield
    except BaseException as error:
        if not await response.answer_error(error):
            raise


async def new(_response: Response) -> None:
    pass


async def started(response: Response) -> None:
    await response.start(STREAM_HEADERS)


async def streaming(response: Response) -> None:
    await response.start(STREAM_HEADERS)
    response.stream = EventStream()
    await response.write(response.stream.feed(start(input_tokens=1)))


async def complete(response: Response) -> None:
    await streaming(response)
    assert response.stream is not None
    await response.write(response.stream.feed(STOP), pings=False)


async def ended(response: Response) -> None:
    await response.send_whole(200, [], b"{}")


WAYS: dict[State, Callable[[Response], Awaitable[None]]] = {
    State.NEW: new,
    State.STARTED: started,
    State.ENDED: ended,
}


async def act(response: Response, action: Action) -> None:
    """What each action of the table is called in code."""
    if action == "send_whole":
        await response.send_whole(200, [], b"{}")
    elif action == "start":
        await response._send_head(STREAM_HEADERS)
    elif action == "write":
        await response.write(b"x")
    elif action == "finish":
        await response.finish(b"x")
    elif action == "fail":
        await response.fail(GatewayError("no"))
    elif action == "break_off":
        response.break_off()


@pytest.mark.parametrize("action", [action for action in get_args(Action) if action != "started"])
@pytest.mark.parametrize("state", WAYS, ids=lambda state: state.value)
async def test_every_action_follows_the_table(state: State, action: Action) -> None:
    response, _, sent = response_of()
    await WAYS[state](response)
    following = TRANSITIONS[state].get(action)
    before = len(sent.messages)
    if following is None:
        with pytest.raises(RuntimeError, match=f"^a response that is {state.value} cannot {action}$"):
            await act(response, action)
        assert (response.state, len(sent.messages)) == (state, before)
    else:
        await act(response, action)
        assert response.state is (State.STARTED if following is State.STARTING else following)


def test_the_docs_draw_the_table() -> None:
    page = (Path(__file__).parent.parent / "docs" / "request-path.md").read_text()
    drawn = re.findall(r"^    (\w+) --> (\w+): (\w+)$", page, re.MULTILINE)
    table = [(state.value, to.value, action) for state, row in TRANSITIONS.items() for action, to in row.items()]
    assert sorted(drawn) == sorted(table)


FAILURES: list[tuple[Callable[[Response], Awaitable[None]], GatewayError, Outcome]] = [
    (new, InvalidRequest("no"), "refused"),
    (new, ShuttingDown(), "refused"),
    (new, ClientGone("gone"), "client_gone"),
    (new, UpstreamErrorResponse(429, b"{}", []), "answered"),
    (new, TranslatedUpstreamError("no", status=429, type_="rate_limit_error", upstream_message=""), "answered"),
    (
        new,
        TranslatedUpstreamError("no", status=502, type_="api_error", upstream_message="", credential=True),
        "upstream_failed",
    ),
    (started, UpstreamErrorResponse(429, b"{}", []), "answered"),
    (streaming, BROKEN, "upstream_failed"),
    (streaming, ShuttingDown(), "cancelled"),
    (streaming, ClientGone("gone"), "client_gone"),
    (streaming, GatewayError("Internal server error"), "cancelled"),
    (complete, ClientGone("gone"), "answered"),
    (complete, ShuttingDown(), "answered"),
    (ended, GatewayError("too late"), "answered"),
]


@pytest.mark.parametrize(
    ("way", "error", "outcome"),
    FAILURES,
    ids=[f"{way.__name__}, {type(error).__name__} ({error.status})" for way, error, _ in FAILURES],
)
async def test_a_failure_takes_the_form_that_the_state_allows(
    way: Callable[[Response], Awaitable[None]], error: GatewayError, outcome: Outcome
) -> None:
    response, exchange, sent = response_of()
    await way(response)
    before = len(sent.messages)
    await response.fail(error)
    assert (exchange.outcome, response.state) == (outcome, State.ENDED)
    assert sent.messages[-1].get("more_body", False) is False
    if way is new:
        assert (sent.status, sent.messages[0]["type"], before) == (error.status, "http.response.start", 0)
    elif way is ended:
        assert len(sent.messages) == before
    else:
        (last,) = sent.messages[before:]
        assert last["body"].startswith(b"event: error\ndata: ") or (way is complete and last["body"] == b"")


async def test_an_upstreams_error_passes_through_byte_for_byte() -> None:
    body = b'{"type": "error",\n "error": {"type": "rate_limit_error", "message": "Slow"}}'
    error = UpstreamErrorResponse(429, body, [(b"retry-after", b"7"), (b"upstream-request-id", b"req_up")])
    response, _, sent = response_of()
    await response.fail(error)
    assert (sent.status, sent.body) == (429, body)
    assert (sent.headers[b"retry-after"], sent.headers[b"upstream-request-id"]) == (b"7", b"req_up")
    response, _, sent = response_of()
    await started(response)
    await response.fail(error)
    assert sent.body == error_event(body)
    assert json.loads(sent.body.split(b"data: ")[1]) == json.loads(body)


async def test_a_head_has_the_given_headers_those_of_the_stages_and_the_ids() -> None:
    response, exchange, sent = response_of()
    exchange.reply_headers.append((b"x-stage", b"1"))
    attempt = Attempt(Target("a"))
    attempt.dropped = ("a-beta", "thinking")
    exchange.attempts.append(attempt)
    assert (exchange.status, exchange.committed) == (None, None)
    await response.start([(b"a", b"b")])
    headers = [
        (b"a", b"b"),
        (b"x-stage", b"1"),
        (b"request-id", exchange.request_id.encode()),
        (b"bud-dropped", b"a-beta, thinking"),
    ]
    assert sent.messages == [{"type": "http.response.start", "status": 200, "headers": headers}]
    assert exchange.status == 200
    assert exchange.committed is not None
    assert exchange.committed >= exchange.started


async def test_a_refusal_is_an_error_object() -> None:
    response, exchange, sent = response_of()
    exchange.reply_headers.append((b"x-stage", b"1"))
    await response.fail(MethodNotAllowed("no é", headers={"allow": "POST"}))
    error = {"type": "invalid_request_error", "message": "no é"}
    document = {"type": "error", "error": error, "request_id": exchange.request_id}
    body = json.dumps(document, ensure_ascii=False, separators=(",", ":")).encode()
    head = {
        b"content-type": b"application/json",
        b"content-length": b"%d" % len(body),
        b"allow": b"POST",
        b"x-should-retry": b"false",
        b"x-stage": b"1",
        b"request-id": exchange.request_id.encode(),
    }
    assert (sent.status, sent.headers, sent.body) == (405, head, body)
    assert len(sent.messages[0]["headers"]) == len(head)


async def test_a_head_request_gets_the_headers_of_the_body_and_no_body() -> None:
    by_post, _, post = response_of()
    by_head, _, head = response_of(method="HEAD")
    await by_post.fail(InvalidRequest("no"))
    await by_head.fail(InvalidRequest("no"))
    assert (head.status, head.body) == (400, b"")
    assert head.headers[b"content-length"] == post.headers[b"content-length"] == b"%d" % len(post.body)


async def test_a_client_that_has_gone_is_answered_with_an_empty_499() -> None:
    response, _, sent = response_of()
    await response.fail(ClientGone("gone"))
    assert (sent.status, sent.body, sent.headers[b"content-length"]) == (499, b"", b"0")


class Boundary(RuntimeError):
    """An error that is not the gateway's."""


async def test_the_boundary_answers_any_error(caplog: pytest.LogCaptureFixture) -> None:
    response, exchange, sent = response_of()
    async with boundary(response):
        raise Boundary
    assert (sent.status, json.loads(sent.body)["error"]["message"]) == (500, "Internal server error")
    (record,) = caplog.records
    assert (record.levelname, record.message) == ("ERROR", f"{exchange.request_id}: the request failed")
    assert record.exc_info is not None
    assert record.exc_info[0] is Boundary


@pytest.mark.parametrize("way", [new, streaming, complete, ended])
async def test_a_cancellation_travels_on_and_ends_a_running_stream_in_its_own_step(
    way: Callable[[Response], Awaitable[None]],
) -> None:
    response, exchange, sent = response_of()

    async def answer() -> None:
        async with boundary(response):
            await way(response)
            await asyncio.get_running_loop().create_future()

    task = asyncio.create_task(answer())
    await asyncio.sleep(0)
    before = len(sent.messages)
    task.cancel()
    await asyncio.sleep(0)
    assert task.cancelled()
    after = [message.get("body", b"") for message in sent.messages[before:]]
    if way is streaming:
        assert after == [response_error(exchange)]
        assert exchange.outcome == "cancelled"
    else:
        assert after == ([b""] if way is complete else [])
        assert exchange.outcome == ("answered" if way in {complete, ended} else None)


async def test_a_server_that_raises_in_send_reports_a_disconnect(caplog: pytest.LogCaptureFixture) -> None:
    sent: list[Message] = []

    async def send(message: Message) -> None:
        if sent:
            raise OSError("broken pipe")
        sent.append(message)

    exchange = Exchange.of(http_scope([]))
    response = Response(exchange, send)
    await response.start(STREAM_HEADERS)
    with pytest.raises(OSError, match="broken pipe") as caught:
        await response.write(b"x")
    assert await response.answer_error(caught.value)
    assert (exchange.outcome, caplog.records) == ("client_gone", [])


def response_error(exchange: Exchange) -> bytes:
    error = {"type": "overloaded_error", "message": "The gateway is shutting down."}
    document = {"type": "error", "error": error, "request_id": exchange.request_id}
    return error_event(json.dumps(document, separators=(",", ":")).encode())


async def test_while_the_head_is_being_sent_a_failure_sends_nothing() -> None:
    """Whether the server has accepted the head is unknown, so a body may be an error."""
    blocked, sent = asyncio.Event(), list[Message]()

    async def send(message: Message) -> None:
        sent.append(message)
        await blocked.wait()

    exchange = Exchange.of(http_scope([]))
    response = Response(exchange, send)

    async def answer() -> None:
        async with boundary(response):
            await response.start(STREAM_HEADERS)

    task = asyncio.create_task(answer())
    await asyncio.sleep(0)
    assert response.state is State.STARTING
    task.cancel()
    await asyncio.wait({task})
    assert [message["type"] for message in sent] == ["http.response.start"]
    assert response.closing_event(ShuttingDown()) == b""


async def test_pings_start_the_response_and_go_on_until_something_else_is_sent() -> None:
    response, exchange, sent = response_of(timing=Timing(ping_after=10))
    response.enable_pings()
    now = asyncio.get_running_loop().time()
    response.on_tick(now + 9.9)
    await asyncio.sleep(0)
    assert sent.messages == []
    response.on_tick(now + 10.1)
    await asyncio.sleep(0)
    assert (sent.status, body_of(sent), response.has_content) == (200, PING, False)
    response.on_tick(now + 20.2)
    await asyncio.sleep(0)
    assert body_of(sent) == PING * 2
    await response.start([(b"x-late", b"1")])
    assert b"x-late" not in sent.headers
    response.on_tick(now + 99)
    await response.write(b"event")
    response.on_tick(now + 99)
    await asyncio.sleep(0)
    await response.finish(b"last")
    assert body_of(sent) == PING * 2 + b"event" + PING + b"last"
    assert exchange.outcome == "answered"


async def test_no_ping_follows_bytes_that_end_inside_an_event() -> None:
    response, _, sent = response_of(timing=Timing(ping_after=0))
    await response.start(STREAM_HEADERS)
    await response.write(b"data: half", pings=False)
    response.on_tick(asyncio.get_running_loop().time() + 99)
    await asyncio.sleep(0)
    assert body_of(sent) == b"data: half"


async def test_an_oversized_event_that_breaks_off_gets_a_line_end_before_its_error() -> None:
    response, _, sent = response_of()
    await response.start(STREAM_HEADERS)
    response.stream = stream = EventStream(max_event=10)
    await response.write(stream.feed(b"event: x\ndata: " + b"y" * 20), pings=False)
    await response.fail(BROKEN)
    assert b"y\nevent: error\ndata: {" in sent.body
    assert sent.body.endswith(b"}\n\n")


async def test_an_error_that_cannot_be_sent_does_not_leave_the_boundary() -> None:
    async def send(message: Message) -> None:
        if message.get("body"):
            raise OSError("broken pipe")

    exchange = Exchange.of(http_scope([]))
    response = Response(exchange, send, Timing(ping_after=0))
    await response.start(STREAM_HEADERS)
    response.enable_pings()
    response.on_tick(asyncio.get_running_loop().time() + 1)
    await asyncio.sleep(0)
    assert await response.answer_error(BROKEN)
    assert exchange.outcome == "client_gone"

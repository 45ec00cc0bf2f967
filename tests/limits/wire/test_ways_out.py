"""Every way out of a request: what the client gets, what reaches the upstream, and exactly what is booked."""

from __future__ import annotations

import time
from collections.abc import Generator
from typing import Any, Literal

import httpx
import msgspec
import pytest
from msgspec.structs import replace
from starlette.middleware import Middleware
from starlette.middleware.base import BaseHTTPMiddleware, RequestResponseEndpoint
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp
from support.calls import UPSTREAM_KEY
from support.gateway import PATIENT, provider
from support.limited import (
    EVERY_KIND,
    USAGE,
    Booked,
    Limited,
    Store,
    encoded,
    limited,
    stopped,
    user,
)
from support.ports import nowhere
from support.sockets import receive_until
from support.streams import event, parse, start
from support.streams import text as text_event
from support.valkey import CountedRedisStore
from support.waiting import wait_until

from bud_asgi import AuthMiddleware, Exchange, MemoryStore, RateLimitMiddleware, Route, RouteTable, RoutingMiddleware
from bud_asgi.clock import Timing
from bud_asgi.http import Timeouts
from bud_asgi.protocol.errors import Outcome
from bud_asgi.protocol.estimate import estimated_input
from bud_asgi.testing import (
    Reply,
    StandIn,
    ThreadedStandIn,
    cut_before_message_stop,
    empty,
    error,
    error_first_event,
    hang,
    html,
    reset_before_head,
    short_content_length,
    sse,
    text,
)

MAX_TOKENS = 100
BLOCK = event("content_block_start", index=0, content_block={"type": "text", "text": ""})
BEGUN = start(input_tokens=37, output_tokens=1) + BLOCK + text_event("word " * 20)
OVERLOADED = event("error", error={"type": "overloaded_error", "message": "Overloaded"})
WHOLE = text("Hello there", usage=USAGE)

Tokens = Literal["none", "all", "delivered", "unknown"]
"""What is booked: nothing, the usage in the reply, what was delivered until the cut, or what was reserved."""


class Way(msgspec.Struct, frozen=True):
    """A way out of a request. `status` is `None` if the client does not wait for it; `last` is a stream's last event.

    `leaves` is when the client does, `upstream` how many requests reach the upstream.
    """

    outcome: Outcome
    tokens: Tokens
    status: int | None = 200
    reply: Reply | None = None
    json: bool = True
    stream: bool = True
    last: str = "message_stop"
    model: str = "claude"
    body: bytes = b""
    leaves: Literal["", "before the body", "upstream is silent", "mid-stream", "after the end"] = ""
    requests: int = 1
    upstream: int = 1


CUT: dict[str, Any] = {"json": False, "last": "error", "tokens": "delivered"}

WAYS: dict[str, Way] = {
    "a whole reply": Way("answered", "all", reply=WHOLE),
    "an upstream's 400": Way("answered", "none", 400, error(400, "invalid_request_error", "no")),
    "an upstream's 429": Way("answered", "none", 429, error(429, "rate_limit_error", "slow down")),
    "an upstream's 500": Way("answered", "none", 500, error(500, "api_error", "oops")),
    "an upstream's 529": Way("answered", "none", 529, error(529, "overloaded_error", "Overloaded")),
    "an upstream's 401": Way("upstream_failed", "none", 502, error(401, "authentication_error", "who?")),
    "a page with 503": Way("upstream_failed", "none", 503, html(503)),
    "an error in place of the first event": Way(
        "answered", "none", 529, error_first_event("overloaded_error", "Overloaded"), json=False
    ),
    "an error event in mid-stream": Way("upstream_failed", reply=sse(BEGUN + OVERLOADED), **CUT),
    "a stream that ends early": Way("upstream_failed", reply=sse(BEGUN), **CUT),
    "a stream that is reset": Way(
        "upstream_failed", reply=replace(sse(BEGUN + BEGUN), cut=len(BEGUN), end="reset"), **CUT
    ),
    "a stream that stalls": Way(
        "upstream_failed", reply=replace(sse(BEGUN + BEGUN), cut=len(BEGUN), end="hang"), model="impatient", **CUT
    ),
    "a stream that is cut before message_stop": Way(
        "upstream_failed", "all", reply=cut_before_message_stop(WHOLE), json=False, last="error"
    ),
    "a short JSON body": Way("upstream_failed", "unknown", 502, short_content_length(reply=WHOLE), stream=False),
    "no answer in time": Way("upstream_failed", "unknown", 504, hang(), model="impatient"),
    "a reset in place of an answer": Way("upstream_failed", "unknown", 502, reset_before_head()),
    "a page in place of an answer": Way("upstream_failed", "unknown", 502, html()),
    "an empty 200": Way("upstream_failed", "unknown", 502, empty()),
    "the second target answers": Way("answered", "all", reply=WHOLE, model="failover"),
    "no target can be reached": Way("upstream_failed", "none", 502, model="dead", upstream=0),
    "an invalid body": Way("refused", "none", 400, body=b'{"model": 7}', requests=0, upstream=0),
    "an unknown model": Way("refused", "none", 404, model="unknown", requests=0, upstream=0),
    "the client leaves before its body is whole": Way(
        "client_gone", "none", None, leaves="before the body", requests=0, upstream=0
    ),
    "the client leaves while the upstream is silent": Way(
        "client_gone", "unknown", None, hang(), leaves="upstream is silent"
    ),
    "the client leaves in mid-stream": Way(
        "client_gone",
        "delivered",
        None,
        replace(sse(BEGUN + BEGUN), cut=len(BEGUN), end="hang"),
        json=False,
        leaves="mid-stream",
    ),
    "the client leaves after the last event": Way("answered", "all", None, WHOLE, leaves="after the end"),
}

CASES = [
    pytest.param(name, streaming, id=f"{name}, {'stream' if streaming else 'json'}")
    for name, way in WAYS.items()
    for streaming in (False, True)
    if (way.stream if streaming else way.json)
]


async def pass_on(request: Request, call_next: RequestResponseEndpoint) -> Response:
    return await call_next(request)


def below_base_http_middleware(app: ASGIApp) -> ASGIApp:
    return BaseHTTPMiddleware(app, dispatch=pass_on)


@pytest.fixture(scope="module")
def upstream() -> Generator[ThreadedStandIn]:
    with StandIn(api_key=UPSTREAM_KEY).in_thread() as stand_in:
        yield stand_in


@pytest.fixture(scope="module", params=["stages", "middleware", "valkey", "below BaseHTTPMiddleware"])
def here(upstream: ThreadedStandIn, request: pytest.FixtureRequest) -> Generator[Limited]:
    kind: str = request.param
    store: Store = MemoryStore(clock=stopped)
    if kind == "valkey":
        store = CountedRedisStore(request.getfixturevalue("valkey"))
    dead = nowhere()
    routes = [
        Route("claude-*", to=["anthropic"]),
        Route("impatient-*", to=["impatient"]),
        Route("failover-*", to=["dead", "anthropic"]),
        Route("dead-*", to=["dead"]),
    ]
    options: dict[str, Any] = {
        "providers": [
            provider(upstream.base_url, timeouts=PATIENT),
            provider(upstream.base_url, name="impatient", timeouts=Timeouts(30.0, 1.0, 0.5)),
            provider(dead, name="dead"),
        ],
        "timing": Timing(tick=0.02, watch_after=0.02),
        "upstream": upstream,
        "store": store,
    }
    if kind == "middleware":
        options["middleware"] = [
            Middleware(AuthMiddleware, backend=user()),
            Middleware(RateLimitMiddleware, limits=EVERY_KIND, store=store),
            Middleware(RoutingMiddleware, router=RouteTable(routes)),
        ]
    else:
        options["routes"] = routes
    if kind == "below BaseHTTPMiddleware":
        options["wrap"] = below_base_http_middleware
    with limited(*EVERY_KIND, **options) as one:
        yield one


@pytest.mark.parametrize(("name", "streaming"), CASES)
def test_each_way_out_books_exactly_what_was_used(
    here: Limited, upstream: ThreadedStandIn, name: str, streaming: bool
) -> None:
    way, caller = WAYS[name], f"{name}, {streaming}"
    body = way.body or encoded(model=f"{way.model}-{name.replace(' ', '-')}", stream=streaming, max_tokens=MAX_TOKENS)
    upstream.drop_connections()  # on one that has been used before, a reset is tried again
    upstream.requests.clear()
    if way.reply is not None:
        upstream.enqueue(way.reply)
    if way.leaves:
        _leave(here, way, caller, body)
    else:
        _stay(here, way, caller, body, streaming=streaming)
    account = here.account(caller)
    assert account.outcome == way.outcome
    assert len(upstream.requests) == way.upstream
    tokens = _tokens(way, account, body)
    assert here.booked_now(caller) == Booked(way.requests, *tokens, sum(tokens))


def _stay(here: Limited, way: Way, caller: str, body: bytes, *, streaming: bool) -> None:
    reply: httpx.Response = here.post(caller, body)
    assert reply.status_code == way.status, reply.text
    if reply.status_code == 200 and streaming:
        assert parse(reply.content)[-1][0] == way.last
    elif reply.status_code != 200:
        assert reply.json()["type"] == "error"


def _leave(here: Limited, way: Way, caller: str, body: bytes) -> None:
    before_the_body = way.leaves == "before the body"
    with here.began(caller, body, body[:20] if before_the_body else None) as client:
        if way.leaves == "mid-stream":
            receive_until(client, b"content_block_delta")
        elif way.leaves == "after the end":
            receive_until(client, b"stop")
            wait_until(lambda: bool(here.accounts(caller)), "the account")
        elif before_the_body:
            time.sleep(0.05)
        else:
            here.upstream.wait_requests()
            time.sleep(0.05)


def _tokens(way: Way, account: Exchange, body: bytes) -> tuple[int, int]:
    usage = account.usage
    if way.tokens == "none":
        return 0, 0
    if way.tokens == "all":
        return 37, 11
    assert usage is not None
    assert usage.estimated
    if way.tokens == "delivered":
        assert usage.output_tokens is not None
        assert 10 <= usage.output_tokens <= 60  # 20 words
        return 37, usage.output_tokens
    return estimated_input(body).input_tokens or 0, MAX_TOKENS

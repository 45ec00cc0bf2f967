"""A gateway whose upstream leads back to it answers after one round, and reveals nothing by noticing it."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.types import ASGIApp
from support.asgi import Receiving, call, http_scope
from support.bodies import body, decode
from support.calls import BODY, HEADERS, KEY, UPSTREAM_KEY
from support.counts import examples
from support.gateway import PATIENT
from support.ports import free_port
from support.serving import serving

from bud_asgi import (
    Anonymous,
    Anthropic,
    ApiKeys,
    AuthMiddleware,
    Bedrock,
    MessagesApp,
    Route,
    RouteTable,
    RoutingMiddleware,
    Vertex,
    hash_api_key,
)
from bud_asgi.http import Engine, HttpClient, HttpRequest, Origin
from bud_asgi.http.httpx import HttpxEngine
from bud_asgi.protocol.errors import LoopDetected
from bud_asgi.protocol.hops import HOPS, MAX_HOPS, next_hops
from bud_asgi.providers import ProviderRequest, gateway_id, with_hops
from bud_asgi.testing import StandIn
from bud_asgi.testing import bedrock as bedrock_stand_in

OTHERS = [b"%016x" % number for number in range(MAX_HOPS + 2)]
TRACES = {**HEADERS, "bud-hops": OTHERS[0].decode()}


def gateway_to(url: str, **options: Any) -> MessagesApp:
    """A gateway that admits everyone and forwards to `url`."""
    settings: dict[str, Any] = {"auth": Anonymous(), **options}
    return MessagesApp(providers=[Anthropic(api_key=UPSTREAM_KEY, base_url=url, timeouts=PATIENT)], **settings)


class Counting:
    """An app that counts the requests for it."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app
        self.requests = 0

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        self.requests += scope["type"] == "http"
        await self.app(scope, receive, send)


def post(url: str, **more: Any) -> httpx.Response:
    options: dict[str, Any] = {"headers": HEADERS, "json": BODY, "timeout": 20, **more}
    return httpx.post(f"{url}/v1/messages", **options)


def assert_loop_detected(reply: httpx.Response) -> None:
    assert reply.status_code == 508
    assert reply.headers["x-should-retry"] == "false"
    assert reply.json()["error"]["type"] == "api_error"
    assert reply.json()["type"] == "error"


def _in_stack(app: Callable[..., MessagesApp], url: str) -> MessagesApp:
    layers = [
        Middleware(AuthMiddleware, backend=ApiKeys({"me": hash_api_key(KEY)})),
        Middleware(RoutingMiddleware, router=RouteTable([Route("*", to=["anthropic"])])),
    ]
    return app(url, auth=None, middleware=layers)


WAYS: dict[str, Callable[[str], MessagesApp]] = {
    "anyone may call": gateway_to,
    "with keys, which the second round does not have": lambda url: gateway_to(
        url, auth=ApiKeys({"me": hash_api_key(KEY)})
    ),
    "a stack of middleware": lambda url: _in_stack(gateway_to, url),
    "the httpx engine": lambda url: gateway_to(url, client=lambda: HttpxEngine(httpx.AsyncClient)),
}


@pytest.mark.parametrize("make", WAYS.values(), ids=WAYS.keys())
@pytest.mark.parametrize("stream", [False, True])
def test_a_gateway_that_is_its_own_upstream_answers_508_after_one_round(
    make: Callable[[str], MessagesApp], *, stream: bool
) -> None:
    port = free_port()
    app = Counting(make(f"http://127.0.0.1:{port}"))
    with serving(app, port=port) as url:
        assert_loop_detected(post(url, json={**BODY, "stream": stream}))
        assert app.requests == 2


def test_a_mounted_gateway_that_is_its_own_upstream_answers_508() -> None:
    port = free_port()
    host = Starlette()
    gateway_to(f"http://localhost:{port}/llm").install(host, "/llm")
    app = Counting(host)
    with serving(app, port=port) as url:
        assert_loop_detected(post(f"{url}/llm"))
    assert app.requests == 2


def test_a_loop_through_other_gateways_ends_where_it_began() -> None:
    ports = [free_port() for _ in range(3)]
    urls = [f"http://127.0.0.1:{port}" for port in ports]
    apps = [Counting(gateway_to(urls[(index + 1) % 3])) for index in range(3)]
    with ExitStack() as stack:
        for app, port in zip(apps, ports, strict=True):
            stack.enter_context(serving(app, port=port))
        assert_loop_detected(post(urls[0]))
    assert [app.requests for app in apps] == [2, 1, 1]


def test_a_loop_between_replicas_ends_at_the_second() -> None:
    ports = [free_port() for _ in range(2)]
    balancer = f"http://127.0.0.1:{ports[1]}"  # leads to the other replica
    replicas = [Counting(gateway_to(balancer)) for _ in ports]
    with serving(replicas[0], port=ports[0]) as url, serving(replicas[1], port=ports[1]):
        assert_loop_detected(post(url))
    assert [replica.requests for replica in replicas] == [1, 1]


def test_the_model_list_of_a_gateway_that_is_its_own_upstream_does_not_loop() -> None:
    port = free_port()
    app = Counting(gateway_to(f"http://127.0.0.1:{port}"))
    with serving(app, port=port) as url:
        assert httpx.get(f"{url}/v1/models", headers=HEADERS).status_code == 200
    assert app.requests == 2


def test_a_chain_of_gateways_is_not_a_loop() -> None:
    with StandIn(api_key=UPSTREAM_KEY).in_thread() as upstream, ExitStack() as stack:
        url = upstream.base_url
        for _ in range(4):
            url = stack.enter_context(serving(gateway_to(url)))
        assert post(url).status_code == 200
        hops = upstream.requests[-1].header("bud-hops")
    assert hops is not None
    assert len(set(hops.split(b", "))) == 4


@pytest.mark.parametrize("client", [Engine, lambda: HttpxEngine(httpx.AsyncClient)], ids=["own engine", "httpx"])
def test_the_header_survives_a_signature(client: Callable[[], HttpClient]) -> None:
    service = bedrock_stand_in.Bedrock()
    key = service.keys.issue_temporary()
    with StandIn.of(service).in_thread() as upstream:
        there = Bedrock(
            region=service.region,
            endpoint=upstream.base_url,
            access_key=key.access_key,
            secret_key=key.secret_key,
            session_token=key.session_token,
        )
        with serving(MessagesApp(auth=Anonymous(), providers=[there], client=client)) as url:
            assert post(url, headers=TRACES).status_code == 200
        (sent,) = upstream.requests
    assert sent.header("bud-hops") == OTHERS[0] + b", " + gateway_id([there])


async def test_a_request_of_too_many_gateways_is_refused_before_anything_is_read() -> None:
    receive = Receiving()
    lines = [(HOPS, b", ".join(OTHERS[: MAX_HOPS + 1]))]
    sent = await call(gateway_to("http://127.0.0.1:9"), http_scope(lines), receive)
    assert (sent.status, receive.calls) == (508, 0)


async def test_health_checks_do_not_depend_on_the_header() -> None:
    app = gateway_to("http://127.0.0.1:9")
    lines = [(HOPS, gateway_id([Anthropic(api_key=UPSTREAM_KEY, base_url="http://127.0.0.1:9")]))]
    assert (await call(app, http_scope(lines, method="GET", path="/healthz"))).status == 200
    assert (await call(app, http_scope(lines))).status == 508


VENDORS: Sequence[str] = [
    "api.anthropic.com",
    "API.anthropic.com.",
    "bedrock-runtime.us-east-1.amazonaws.com",
    "bedrock-runtime-fips.us-gov-west-1.amazonaws.com",
    "bedrock-runtime.cn-north-1.amazonaws.com.cn",
    "bedrock-runtime.eusc-de-east-1.amazonaws.eu",
    "bedrock-runtime.us-east-1.api.aws",
    "vpce-0a1b-2c3d.bedrock-runtime.us-east-1.vpce.amazonaws.com",
    "bedrock-mantle.us-east-1.api.aws",
    "aws-external-anthropic.us-east-1.api.aws",
    "aiplatform.googleapis.com",
    "aiplatform.eu.rep.googleapis.com",
    "us-east5-aiplatform.googleapis.com",
    "us-east5-aiplatform.p.googleapis.com",
    "claude.googleapis.com",
]
OTHER_HOSTS: Sequence[str] = [
    "localhost",
    "api.anthropic.com.evil.example",
    "my-api.anthropic.com.example",
    "xapi.anthropic.com",
    "bedrock-runtime-1234.us-east-1.elb.amazonaws.com",
    "abc.execute-api.us-east-1.amazonaws.com",
    "gateway.run.app",
    "proxy.googleapis.com.example",
]


@pytest.mark.parametrize("host", VENDORS)
def test_a_vendor_does_not_see_the_header(host: str) -> None:
    request = HttpRequest(Origin(host, 443), b"POST", b"/", ())
    assert tuple(with_hops(request, OTHERS[0]).headers) == ()


@pytest.mark.parametrize("host", OTHER_HOSTS)
def test_any_other_server_does(host: str) -> None:
    request = HttpRequest(Origin(host, 443), b"POST", b"/", ((b"a", b"b"),))
    assert tuple(with_hops(request, OTHERS[0]).headers) == ((b"a", b"b"), (HOPS, OTHERS[0]))


@pytest.mark.parametrize(
    "provider",
    [
        Anthropic(api_key="k"),
        Bedrock(region="us-east-1", bearer_token="t"),
        Vertex(project="my-project-1", region="us-east5"),
    ],
    ids=lambda provider: provider.name,
)
def test_a_client_cannot_send_the_header_to_a_vendor(provider: Any) -> None:
    assert HOPS not in dict(_encoded(provider).headers)
    assert with_hops(_encoded(provider), OTHERS[0]).headers == _encoded(provider).headers


def _encoded(provider: Any) -> HttpRequest:
    headers = {b"anthropic-version": b"2023-06-01", HOPS: OTHERS[0]}
    return provider.encode(ProviderRequest(decode(body(model=b'"claude-haiku-4-5"')), headers)).request


# The id.


def test_the_id_is_the_same_for_every_replica_and_reveals_no_secret() -> None:
    one, other = (
        gateway_id(
            [Anthropic(api_key=key, base_url="http://up:1", name="a"), Bedrock(region="us-east-1", bearer_token=key)]
        )
        for key in ("sk-ant-one", "sk-ant-other")
    )
    assert one == other
    assert re.fullmatch(rb"[0-9a-f]{16}", one)


def test_the_id_depends_on_where_requests_go() -> None:
    def made(**options: Any) -> bytes:
        settings: dict[str, Any] = {"api_key": "k", "base_url": "http://up:1", **options}
        return gateway_id([Anthropic(**settings)])

    ids = {made(), made(base_url="http://up:2"), made(base_url="http://up:1/path"), made(name="b")}
    assert len(ids) == 4


def test_an_upstream_of_unknown_address_is_not_taken_for_another_gateways() -> None:
    class Custom:
        name = "mine"

    ours, theirs = Custom(), Custom()
    assert gateway_id([ours]) != gateway_id([theirs])  # type: ignore[list-item]


# The header.

ID = st.sampled_from(OTHERS)
JUNK = st.text("abcdefg0123456789 \t;=\x7f\xff-", max_size=20).map(lambda text: text.encode("latin-1"))


@examples(50, 2_000)
@given(st.lists(ID | JUNK, max_size=MAX_HOPS + 3))
def test_what_is_forwarded_is_a_list_of_ids_that_ends_with_our_own(received: list[bytes]) -> None:
    own = b"f" * 16
    try:
        forwarded = next_hops(b",".join(received), own)
    except LoopDetected:
        assert len(received) > MAX_HOPS
        return
    assert re.fullmatch(rb"([0-9a-f]{16}, )*f{16}", forwarded)
    assert forwarded.split(b", ") == [*(hop for hop in received if hop in OTHERS), own]


@given(st.lists(ID | JUNK, max_size=4), st.lists(ID | JUNK, max_size=4), st.sampled_from([b"", b" ", b"\t", b"  "]))
@examples(50, 2_000)
def test_our_own_id_is_found_anywhere(before: list[bytes], after: list[bytes], space: bytes) -> None:
    own = b"f" * 16
    with pytest.raises(LoopDetected):
        next_hops(b",".join([*before, space + own + space, *after]), own)

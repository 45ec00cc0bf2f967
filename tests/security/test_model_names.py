"""A model is one model, however a client spells its name: no spelling leads past a key's list, and none is lost."""

from __future__ import annotations

import re
from collections.abc import Generator, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from urllib.parse import quote

import httpx
import pytest
from google.oauth2.credentials import Credentials
from hypothesis import given
from hypothesis import strategies as st
from support.calls import BODY, HEADERS, KEY, UPSTREAM_KEY
from support.counts import examples
from support.gateway import Gateway, gateway

from bud_asgi import Anthropic, ApiKey, ApiKeys, Bedrock, Route, Vertex, hash_api_key
from bud_asgi.exchange import Principal
from bud_asgi.protocol.errors import InvalidRequest, NotFound
from bud_asgi.protocol.request import decode_request
from bud_asgi.providers import Provider
from bud_asgi.providers.seam import ProviderRequest
from bud_asgi.testing import StandIn, ThreadedStandIn
from bud_asgi.testing import bedrock as aws
from bud_asgi.testing import vertex as google
from bud_asgi.testing.google import PROJECT, Tokens

SERVICES = ("anthropic", "bedrock", "vertex")


@contextmanager
def before(service: str, **options: Any) -> Generator[tuple[Gateway, ThreadedStandIn]]:
    """A gateway before a service. `options` are the app's."""
    with ExitStack() as stack:
        if service == "anthropic":
            upstream = stack.enter_context(StandIn(api_key=UPSTREAM_KEY).in_thread())
            provider: Provider = Anthropic(api_key=UPSTREAM_KEY, base_url=upstream.base_url, name="up")
        elif service == "bedrock":
            there = aws.Bedrock()
            key = there.keys.issue()
            upstream = stack.enter_context(StandIn.of(there).in_thread())
            provider = Bedrock(
                region=there.region,
                endpoint=upstream.base_url,
                access_key=key.access_key,
                secret_key=key.secret_key,
                name="up",
            )
        else:
            tokens = Tokens()
            upstream = stack.enter_context(StandIn.of(google.Vertex(tokens=tokens)).in_thread())
            credentials = Credentials(tokens.issue("someone").value)
            provider = Vertex(project=PROJECT, base_url=upstream.base_url, credentials=credentials, name="up")
        here = stack.enter_context(gateway("", providers=[provider], **options))
        yield here, upstream


def keys(*models: str) -> ApiKeys:
    return ApiKeys([ApiKey(name="me", hash=hash_api_key(KEY), models=models)])


def count(here: Gateway, model: str) -> httpx.Response:
    body = {"model": model, "messages": BODY["messages"]}
    return httpx.post(f"{here.base_url}/v1/messages/count_tokens", headers=HEADERS, json=body)


@pytest.fixture(scope="module", params=SERVICES)
def haiku_only(request: pytest.FixtureRequest) -> Iterator[tuple[Gateway, ThreadedStandIn]]:
    """A gateway whose key may use Haiku only, before each service."""
    with before(request.param, auth=keys("claude-haiku-*")) as stage:
        yield stage


@pytest.fixture(scope="module", params=SERVICES)
def with_routes(request: pytest.FixtureRequest) -> Iterator[tuple[Gateway, ThreadedStandIn, str]]:
    """A gateway whose routes and key name the models without any suffix, before each service."""
    routes = [Route("claude-opus-4-8", to=["up"]), Route("claude-haiku-*", to=["up"])]
    with before(request.param, routes=routes, auth=keys("claude-opus-4-8", "claude-haiku-*")) as (here, upstream):
        yield here, upstream, request.param


OTHER_SPELLINGS = [
    "claude-opus-4-8",
    "claude-opus-4-8[1m]",
    "claude-opus-4-8[1M]",
    "CLAUDE-OPUS-4-8",
    " claude-haiku-4-5",
    "anthropic.claude-opus-4-6-v1",
    "us.anthropic.claude-opus-4-6-v1",
    "global.anthropic.claude-haiku-4-5-20251001-v1:0",
    "haiku.anthropic.claude-opus-4-8",
    "arn:aws:bedrock:us-east-1::foundation-model/anthropic.claude-opus-4-8",
    "arn:aws:bedrock:us-east-1:123456789012:inference-profile/us.anthropic.claude-haiku-4-5-20251001-v1:0",
    "claude-opus-4-8@default",
    "claude-opus-4-1@20250805",
    "claude-opus-4-0",
    "claude-3-5-haiku-latest",
    "claude-haiku",
    "models/claude-haiku-4-5",
    "\u0441laude-haiku-4-5",
]


@pytest.mark.parametrize("model", OTHER_SPELLINGS)
def test_a_key_cannot_reach_a_model_outside_its_list_through_another_spelling(
    haiku_only: tuple[Gateway, ThreadedStandIn], model: str
) -> None:
    here, upstream = haiku_only
    for reply in (here.post({"model": model}), count(here, model)):
        assert reply.status_code in {403, 404}
        assert reply.json()["error"]["type"] in {"permission_error", "not_found_error"}
    assert upstream.requests == []


DECORATED = [
    "claude-haiku-4-5/../claude-opus-4-8",
    "claude-haiku-%2F..%2Fclaude-opus-4-8",
    "claude-haiku-4-5:rawPredict?x=claude-opus-4-8",
    "claude-haiku-4-5#[1m]",
    "claude-haiku-4-5\0",
    "claude-haiku-4-5@20251001/claude-opus-4-8",
]


@pytest.mark.parametrize("model", DECORATED)
@pytest.mark.parametrize("service", ["bedrock", "vertex"])
def test_a_name_cannot_change_the_path_of_a_request_to_a_cloud(service: str, model: str) -> None:
    with before(service, auth=keys("claude-haiku-*")) as (here, upstream):
        assert here.post({"model": model}).status_code == 404
        assert upstream.requests == []


PIECES = st.sampled_from(
    (
        *(
            "claude-haiku-",
            "claude-opus-",
            "4-5",
            "4-8",
            "-20251001",
            "@20251001",
            "@default",
            "[1m]",
            "[200K]",
            "-v1:0",
        ),
        *(
            "anthropic.",
            "us.",
            "global.",
            "haiku.",
            "arn:aws:bedrock:us-east-1::foundation-model/",
            "/",
            ":",
            "-latest",
        ),
    )
)


@examples(40, 2_000)
@given(st.lists(PIECES, min_size=1, max_size=6).map("".join), st.sampled_from(["claude-haiku-*", "*haiku*"]))
def test_no_composed_name_reaches_another_line_than_the_list_allows(name: str, allowed: str) -> None:
    """Whatever is sent upstream is named Haiku too, unless the service itself would have to accept a made-up id."""
    if not Principal(id="me", models=(allowed,)).may_use(name):
        return
    request = decode_request(b'{"model":"%b","messages":[{}],"max_tokens":1}' % name.encode())
    for provider in PROVIDERS:
        try:
            sent = provider.encode(ProviderRequest(request, {b"anthropic-version": b"2023-06-01"})).request
        except (NotFound, InvalidRequest):
            continue
        body = sent.body if isinstance(sent.body, bytes) else b"".join(sent.body)
        assert b"haiku" in sent.target + body


PROVIDERS: list[Provider] = [
    Anthropic(api_key=UPSTREAM_KEY),
    Bedrock(region="us-east-1", access_key="AKIA", secret_key="secret"),
    Vertex(project="p", credentials=Credentials("token")),
]

WINDOWS = {
    "claude-opus-4-8[1m]": "claude-opus-4-8",
    "claude-opus-4-8[1M]": "claude-opus-4-8",
    "claude-haiku-4-5[1m]": "claude-haiku-4-5",
    "claude-haiku-4-5-20251001[200k]": "claude-haiku-4-5-20251001",
}
THERE = {
    "anthropic": {name: name for name in WINDOWS.values()},
    "bedrock": {
        "claude-opus-4-8": "us.anthropic.claude-opus-4-8",
        "claude-haiku-4-5": "us.anthropic.claude-haiku-4-5-20251001-v1:0",
        "claude-haiku-4-5-20251001": "us.anthropic.claude-haiku-4-5-20251001-v1:0",
    },
    "vertex": {
        "claude-opus-4-8": "claude-opus-4-8",
        "claude-haiku-4-5": "claude-haiku-4-5@20251001",
        "claude-haiku-4-5-20251001": "claude-haiku-4-5@20251001",
    },
}


def asked(upstream: ThreadedStandIn) -> str:
    """The model of the latest request to the service, as it is named there."""
    received = upstream.requests[-1]
    in_path = re.search(
        r"/models?/([^/]+?)(?:/invoke|/count-tokens|:rawPredict|:streamRawPredict)", received.path.decode()
    )
    return in_path[1] if in_path and in_path[1] != "count-tokens" else received.json()["model"]


@pytest.mark.parametrize(("model", "base"), WINDOWS.items(), ids=WINDOWS)
def test_a_context_window_behind_a_name_is_a_setting_of_the_client(
    with_routes: tuple[Gateway, ThreadedStandIn, str], model: str, base: str
) -> None:
    """The base model is asked for, by routes and permissions that name it; the rest of the body is unchanged."""
    here, upstream, service = with_routes
    here.post({"model": base})
    plain = upstream.requests[-1].body
    for stream in (False, True):
        reply = here.post({"model": model, "stream": stream})
        assert reply.status_code == 200, reply.text
        assert asked(upstream) == THERE[service][base]
        assert "[1m]" not in reply.text.lower()
        if not stream:
            assert upstream.requests[-1].body.replace(b',"stream":false', b"") == plain


@pytest.mark.parametrize("service", SERVICES)
def test_tokens_are_counted_for_the_base_model(service: str) -> None:
    with before(service, auth=keys("claude-haiku-4-5")) as (here, upstream):
        reply = count(here, "claude-haiku-4-5[1m]")
        assert (reply.status_code, list(reply.json())) == (200, ["input_tokens"])
        assert "[" not in asked(upstream)


@pytest.mark.parametrize("model", ["claude-haiku-4-5[1m]", "claude-haiku-4-5-20251001[200k]", "claude-haiku-4-5"])
def test_a_model_is_retrieved_by_any_of_its_names(
    with_routes: tuple[Gateway, ThreadedStandIn, str], model: str
) -> None:
    url = f"{with_routes[0].base_url}/v1/models/{quote(model)}"
    assert httpx.get(url, headers=HEADERS).json()["id"] == "claude-haiku-4-5-20251001"


def test_an_exact_route_wins_for_every_spelling_of_its_name() -> None:
    with StandIn(api_key=UPSTREAM_KEY).in_thread() as one, StandIn(api_key=UPSTREAM_KEY).in_thread() as other:
        providers = [
            Anthropic(api_key=UPSTREAM_KEY, base_url=up.base_url, name=name) for up, name in ((one, "a"), (other, "b"))
        ]
        routes = [
            Route("claude-opus-4-8[1m]", to=["b"]),
            Route("claude-opus-4-8", to=["a"]),
            Route("claude-*1*", to=["b"]),
        ]
        with gateway("", providers=providers, routes=routes, auth=keys("claude-opus-4-8")) as here:
            here.post({"model": "claude-opus-4-8[200k]"})
            assert (len(one.requests), len(other.requests)) == (1, 0)
            here.post({"model": "claude-opus-4-8[1m]"})
            assert (len(one.requests), len(other.requests)) == (1, 1)
            assert [up.requests[-1].json()["model"] for up in (one, other)] == ["claude-opus-4-8"] * 2
            assert here.post({"model": "claude-opus-4-9[1m]"}).status_code == 404


def test_other_names_with_brackets_are_sent_as_they_are() -> None:
    for model in ("my-model[1m]", "claude-x[beta]", "[1m]"):
        request = decode_request(b'{"model":"%b","messages":[{}],"max_tokens":1}' % model.encode())
        sent = PROVIDERS[0].encode(ProviderRequest(request, {b"anthropic-version": b"2023-06-01"})).request
        assert sent.body == request.body


def test_the_list_of_a_key_may_name_a_context_window() -> None:
    assert Principal(id="me", models=("claude-opus-4-8[1m]",)).may_use("claude-opus-4-8[1m]")
    assert not Principal(id="me", models=("claude-*1*",)).may_use("claude-opus-4-8[1m]")

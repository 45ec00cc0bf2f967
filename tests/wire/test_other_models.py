"""Bounds of fields: those of Anthropic's models are checked here, those of other vendors' models by their servers."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

import httpx
import pytest
from support.calls import BODY, HEADERS, UPSTREAM_KEY
from support.gateway import Gateway, gateway, provider

from bud_asgi import Limit, Route, Secret, Target
from bud_asgi.providers.bedrock import Bedrock
from bud_asgi.testing import StandIn, ThreadedStandIn, json_body

MESSAGE = {"type": "message", "role": "assistant", "content": [], "usage": {"input_tokens": 1, "output_tokens": 1}}
ROUTES = [
    Route("qwen*", to=["local"]),
    Route("mine", to=[Target("local", "llama-70b")]),
    Route("claude-mine", to=[Target("local", "llama-70b")]),
    Route("theirs", to=[Target("local", "claude-haiku-4-5")]),
    Route("cloud", to=[Target("bedrock", "claude-haiku-4-5")]),
    Route("first-there", to=[Target("gone", "qwen"), Target("bedrock", "claude-haiku-4-5")]),
]
THEIRS: dict[str, dict[str, Any]] = {
    "temperature": {"temperature": 1.3},
    "a negative temperature": {"temperature": -1},
    "top_p": {"top_p": 2},
    "top_k": {"top_k": -1},
    "max_tokens": {"max_tokens": -1},
    "max_tokens as null": {"max_tokens": None},
    "no max_tokens": {"max_tokens": ...},
    "a string of tools": {"tools": "auto"},
    "a system object": {"system": {"text": "s"}},
    "one stop sequence": {"stop_sequences": "\n"},
    "no messages": {"messages": []},
}
OURS: dict[str, tuple[dict[str, Any], str]] = {
    "the model": ({"model": 1}, "model: Input should be a valid string"),
    "no model": ({"model": ...}, "model: Field required"),
    "the messages": ({"messages": {}}, "messages: Input should be a valid list"),
    "no messages": ({"messages": ...}, "messages: Field required"),
    "the stream": ({"stream": "true"}, "stream: Input should be a valid boolean"),
}


@pytest.fixture(scope="module")
def upstream() -> Generator[ThreadedStandIn]:
    with StandIn(api_key=UPSTREAM_KEY, strict=False).in_thread() as stand_in:
        stand_in.always(json_body(MESSAGE))
        yield stand_in


@pytest.fixture(scope="module")
def here(upstream: ThreadedStandIn) -> Generator[Gateway]:
    bedrock = Bedrock(region="us-east-1", endpoint="http://127.0.0.1:9", bearer_token=Secret("token"))
    gone = provider("http://127.0.0.1:9", name="gone")
    providers = [provider(upstream.base_url, name="local"), bedrock, gone]
    limits = [Limit("requests", 200, window=3600)]
    with gateway("", providers=providers, routes=ROUTES, limits=limits) as one:
        yield one


def ask(here: Gateway, model: str, more: dict[str, Any]) -> httpx.Response:
    fields = {name: value for name, value in {**BODY, "model": model, **more}.items() if value is not ...}
    return httpx.post(f"{here.base_url}/v1/messages", headers=HEADERS, json=fields, timeout=30)


@pytest.mark.parametrize("model", ["qwen3:8b", "mine", "claude-mine"])
@pytest.mark.parametrize("more", THEIRS.values(), ids=THEIRS.keys())
def test_the_server_of_another_vendor_s_model_judges_its_own_bounds(
    here: Gateway, upstream: ThreadedStandIn, model: str, more: dict[str, Any]
) -> None:
    count = len(upstream.requests)
    assert ask(here, model, more).status_code == 200
    sent = upstream.requests[count].json()
    for name, value in more.items():
        assert sent.get(name, ...) == value


@pytest.mark.parametrize(("more", "message"), OURS.values(), ids=OURS.keys())
def test_what_the_gateway_needs_is_checked_for_every_model(
    here: Gateway, upstream: ThreadedStandIn, more: dict[str, Any], message: str
) -> None:
    count = len(upstream.requests)
    reply = ask(here, "qwen3:8b", more)
    assert (reply.status_code, reply.json()["error"]["message"]) == (400, message)
    assert len(upstream.requests) == count


@pytest.mark.parametrize("model", ["theirs", "cloud", "first-there"])
def test_anthropic_s_models_have_anthropic_s_bounds_everywhere(
    here: Gateway, upstream: ThreadedStandIn, model: str
) -> None:
    count = len(upstream.requests)
    reply = ask(here, model, {"temperature": 1.3})
    expected = "temperature: Input should be less than or equal to 1"
    assert (reply.status_code, reply.json()["error"]["message"]) == (400, expected)
    assert len(upstream.requests) == count


def test_a_rejected_request_is_not_charged(upstream: ThreadedStandIn) -> None:
    local = provider(upstream.base_url)
    with gateway("", providers=[local], limits=[Limit("requests", 1, window=3600)]) as here:
        assert here.post({"temperature": 1.3}).status_code == 400
        assert here.post().status_code == 200
        assert here.post().status_code == 429

"""docs/observability.md is right about what the log shows for each symptom."""

from __future__ import annotations

import logging
import re
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest
from support.access import access_records
from support.asgi import VERSION, Receiving, Sent, chunks, http_scope
from support.calls import HEADERS, MODEL, UPSTREAM_KEY
from support.gateway import Gateway, gateway, messages_app, provider

from bud_asgi import Limit, Route, Target
from bud_asgi.telemetry import AccessLine, AttemptLine
from bud_asgi.testing import StandIn, ThreadedStandIn, json_body, reset_before_head, sse

DOCS = (Path(__file__).parents[2] / "docs" / "observability.md").read_text()
OVERLOADED = {"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}}


@pytest.fixture(scope="module")
def upstream() -> Generator[ThreadedStandIn]:
    with StandIn(api_key=UPSTREAM_KEY).in_thread() as one:
        yield one


@pytest.fixture(scope="module")
def here(upstream: ThreadedStandIn) -> Generator[Gateway]:
    providers = [
        provider(upstream.base_url, name="good"),
        provider(upstream.base_url, name="wrong-key", api_key="sk-ant-api03-wrong-key-of-the-operator"),
        provider("http://127.0.0.1:1", name="away"),
    ]
    routes = [
        Route(MODEL, to=["good"]),
        Route("limited", to=[Target("good", MODEL)]),
        Route("denied", to=["wrong-key"]),
        Route("away", to=["away"]),
        Route("both", to=["away", Target("good", MODEL)]),
    ]
    limits = [Limit("requests", 1, models=("limited",))]
    app: dict[str, Any] = {
        "providers": providers,
        "routes": routes,
        "limits": limits,
        "access_log": True,
        "max_body": 2000,
    }
    with gateway("", **app) as one:
        yield one


@pytest.fixture
def shown(here: Gateway, caplog: pytest.LogCaptureFixture) -> Any:
    """Send one request, and return its line of the log."""
    caplog.set_level(logging.INFO, "bud_asgi.access")

    def send(body: dict[str, Any] | None = None, **headers: str) -> dict[str, Any]:
        here.post(body, headers={**HEADERS, **headers})
        here.account()
        return access_records(caplog)[-1]

    return send


def ends(line: dict[str, Any]) -> list[str]:
    return [attempt["end"] for attempt in line.get("attempts", [])]


def test_a_wrong_key_has_no_principal(shown: Any) -> None:
    line = shown(**{"x-api-key": "wrong"})
    assert (line["status"], line["outcome"], "principal" in line) == (401, "refused", False)


def test_the_client_behind_a_trusted_proxy_is_named(shown: Any) -> None:
    assert shown(**{"x-forwarded-for": "203.0.113.9"})["client_address"] == "203.0.113.9"  # uvicorn trusts 127.0.0.1


def test_a_model_without_a_route_is_named(shown: Any) -> None:
    line = shown({"model": "nope"})
    assert (line["status"], line["requested_model"], "model" in line) == (404, "nope", False)


def test_a_429_of_the_gateway_names_its_limit(shown: Any) -> None:
    shown({"model": "limited"})
    line = shown({"model": "limited"})
    assert (line["status"], line["refused_by"], ends(line)) == (429, "1 request per minute", [])


def test_a_429_of_an_upstream_has_an_attempt(shown: Any, upstream: ThreadedStandIn) -> None:
    upstream.enqueue(json_body(OVERLOADED, status=429, headers={"retry-after": "0"}))
    line = shown()
    assert (line["status"], ends(line), line["attempts"][0]["status"]) == (429, ["overloaded"], 429)
    assert "refused_by" not in line


def test_a_rejected_credential_of_the_gateway_is_denied(shown: Any) -> None:
    line = shown({"model": "denied"})
    assert (line["status"], line["outcome"], ends(line)) == (502, "upstream_failed", ["denied"])
    assert line["attempts"][0]["status"] == 401


def test_an_upstream_that_cannot_be_reached_is_not_sent(shown: Any) -> None:
    line = shown({"model": "away"})
    assert (line["status"], ends(line), "status" in line["attempts"][0]) == (502, ["not_sent"], False)


def test_a_reply_that_does_not_come_is_unknown(shown: Any, upstream: ThreadedStandIn) -> None:
    upstream.enqueue(reset_before_head(), reset_before_head())  # a connection that was idle is tried twice
    line = shown()
    assert (line["status"], ends(line)) == (502, ["unknown"])


def test_a_failover_has_both_attempts_and_their_times(shown: Any) -> None:
    line = shown({"model": "both"})
    assert (line["status"], line["level"], ends(line)) == (200, "info", ["not_sent", "answered"])
    assert line["attempts"][1]["start_milliseconds"] > line["attempts"][0]["start_milliseconds"]
    assert line["added_milliseconds"] < line["first_byte_milliseconds"]


def test_a_stream_that_breaks_off_is_a_200_that_failed(shown: Any, upstream: ThreadedStandIn) -> None:
    start = b'event: message_start\ndata: {"type":"message_start","message":{"usage":{"input_tokens":3}}}\n\n'
    upstream.enqueue(sse(start))
    line = shown({"stream": True})
    assert (line["status"], line["outcome"], line["level"]) == (200, "upstream_failed", "warning")
    assert ends(line) == ["broken"]


def test_a_529_of_an_upstream_has_an_attempt(shown: Any, upstream: ThreadedStandIn) -> None:
    upstream.enqueue(json_body(OVERLOADED, status=529))
    line = shown()
    assert (line["status"], line["error_type"], ends(line)) == (529, "overloaded_error", ["overloaded"])


def test_a_body_that_is_too_large_is_refused_before_its_model_is_known(shown: Any) -> None:
    line = shown({"system": "x" * 3000})
    assert (line["status"], line["error_type"], "model" in line) == (413, "request_too_large", False)


async def test_a_529_without_a_principal_is_a_drain(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "bud_asgi.access")
    messages = messages_app("http://127.0.0.1:1", access_log=True)
    async with messages.lifespan():
        await messages.drain(0)
        await messages(http_scope([VERSION]), Receiving(*chunks(b"{}")), Sent())
    (line,) = access_records(caplog)
    assert (line["status"], line["error_type"]) == (529, "overloaded_error")
    assert not {"principal", "requested_model", "attempts"} & line.keys()


def test_each_field_that_the_page_names_exists() -> None:
    section = DOCS.partition("## Troubleshooting by symptom")[2]
    named = set(re.findall(r"`((?!bud_)[a-z]+(?:_[a-z0-9]+)+)`", section))
    known = {*AccessLine.__struct_fields__, *AttemptLine.__struct_fields__}
    options = {"first_byte", "body_budget", "on_failure", "field_policy", "failover_on_unknown", "max_retries"}
    words = {"client_gone", "not_sent", "upstream_failed", "cache_control"}
    assert named - known <= options | words

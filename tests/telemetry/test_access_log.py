"""The access log: every request is one line of JSON, whatever a backend, a router or an upstream put into it."""

from __future__ import annotations

import json
import logging
from typing import Any

import msgspec
import pytest

from bud_asgi import Exchange, Principal, Route, Target, Usage
from bud_asgi.attempt import Attempt
from bud_asgi.protocol.usage import CacheCreation, Iteration, OutputTokensDetails, ServerToolUse
from bud_asgi.telemetry import access_line, log_access


class Resolved:
    """A route of a host's own router."""

    def __init__(self, model: Any) -> None:
        self.model: Any = model

    def choose(self, exchange: Exchange) -> list[Target]:
        raise NotImplementedError


def exchange(**fields: Any) -> Exchange:
    one = Exchange.of({"type": "http", "method": "POST", "path": "/v1/messages", "headers": []})
    for name, value in fields.items():
        setattr(one, name, value)
    return one


def line(one: Exchange) -> dict[str, Any]:
    text = access_line(one).decode()
    assert text.isprintable()
    return json.loads(text)


def principal(identity: Any) -> Principal:
    """A principal whose backend has not kept to the type of the id."""
    one = Principal(id="x")
    msgspec.structs.force_setattr(one, "id", identity)
    return one


@pytest.mark.parametrize(
    "identity",
    ["\ud800", "a\nb\r\x1b[2J\x7f\x9b\u2028\u202e", 7, 1 << 70, b"\xff", object(), {"a": object()}, ("a", object())],
)
def test_no_identity_breaks_the_line_or_raises(identity: Any) -> None:
    assert line(exchange(principal=principal(identity)))["principal"]


@pytest.mark.parametrize("model", ["\udfff", "m\n\x9b", object()])
def test_no_model_breaks_the_line_or_raises(model: Any) -> None:
    attempt = Attempt(Target("p\u2029", "m\x7f"))
    attempt.upstream_request_id = "req_\x85\x1b"
    shown = line(exchange(route=Resolved(model), attempts=[attempt]))
    assert shown["model"]
    assert (shown["target"], shown["upstream_request_id"]) == ("p\u2029/m\x7f", "req_\x85\x1b")


def test_a_name_in_another_script_is_readable() -> None:
    assert "Jürgen 山田" in access_line(exchange(principal=principal("Jürgen 山田"))).decode()


def test_usage_is_written_in_the_names_of_the_api_and_only_what_is_there() -> None:
    usage = Usage(
        2,
        0,
        0,
        589_733,
        CacheCreation(0, 7),
        OutputTokensDetails(3),
        ServerToolUse(1, 0, {"new_requests": 4}),
        (Iteration("message", None, 5, 6), Iteration("advisor_message", "claude-opus-5-5", None, 7)),
        "standard",
        "us",
        "fast",
        estimated=True,
    )
    assert (
        line(exchange(usage=usage)).items()
        >= {
            "input_tokens": 2,
            "output_tokens": 0,
            "cache_read_input_tokens": 589_733,
            "ephemeral_1h_input_tokens": 7,
            "thinking_tokens": 3,
            "server_tool_use": {"web_search_requests": 1, "new_requests": 4},
            "iterations": [
                {"type": "message", "input_tokens": 5, "output_tokens": 6},
                {"type": "advisor_message", "model": "claude-opus-5-5", "output_tokens": 7},
            ],
            "service_tier": "standard",
            "inference_geo": "us",
            "speed": "fast",
            "estimated": True,
        }.items()
    )
    plain = line(exchange(usage=Usage(1, 2)))
    assert plain.keys() - line(exchange()).keys() == {"input_tokens", "output_tokens"}


def test_a_message_of_many_samplings_is_still_a_short_line() -> None:
    usage = Usage(iterations=tuple(Iteration("message", "claude-opus-5-5", n) for n in range(100)))
    assert len(access_line(exchange(usage=usage))) < 2000


def test_a_line_is_logged_at_info(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "bud_asgi.access"):
        log_access(exchange())
    assert json.loads(caplog.records[0].getMessage())["request_id"]


def test_nothing_is_encoded_while_the_log_is_off(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "bud_asgi.access"):
        log_access(exchange(principal=principal(object()), route=Route("*", to=["p"])))
    assert not caplog.records

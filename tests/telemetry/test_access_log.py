"""The access log: the fields of each request, whatever a backend, a router, a client or an upstream put into them."""

from __future__ import annotations

import json
import logging
import re
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import force_setattr

from bud_asgi import Exchange, Limit, Principal, Route, RouteTable, Target, Usage
from bud_asgi.attempt import Attempt
from bud_asgi.protocol.request import decode_request
from bud_asgi.protocol.usage import CacheCreation, Iteration, OutputTokensDetails, ServerToolUse
from bud_asgi.telemetry import AccessLine, AccessLog, AttemptLine, access_line, encode_line
from bud_asgi.telemetry.access_fields import line_as_dict

DOCS = Path(__file__).parents[2] / "docs"
NOW = 1_796_030_353.0426
BODY = b'{"model":"claude-haiku-4-5","max_tokens":5,"stream":true,"messages":[{"role":"user","content":"hi"}]}'


class Resolved:
    """A route of a host's own router."""

    def __init__(self, model: Any) -> None:
        self.model: Any = model

    def choose(self, exchange: Exchange) -> list[Target]:
        raise NotImplementedError


def exchange(headers: list[tuple[bytes, bytes]] | None = None, /, **fields: Any) -> Exchange:
    scope = {"type": "http", "method": "POST", "path": "/v1/messages", "headers": headers or [], "query_string": b"q=Q"}
    one = Exchange.of({**scope, **fields.pop("scope", {})})
    for name, value in fields.items():
        setattr(one, name, value)
    return one


def line(one: Exchange) -> dict[str, Any]:
    made = access_line(one, NOW)
    text = encode_line(made).decode()
    assert text.isprintable()
    assert line_as_dict(made) == json.loads(text)
    return json.loads(text)


def principal(identity: Any) -> Principal:
    """A principal whose backend has not kept to the type of the id."""
    one = Principal(id="x")
    force_setattr(one, "id", identity)
    return one


@pytest.mark.parametrize(
    "identity",
    ["a\nb\r\x1b[2J\x7f\x9b\u2028\u202e", 7, 1 << 70, object(), {"a": object()}, ("a", object())],
)
def test_no_identity_breaks_the_line_or_raises(identity: Any) -> None:
    made = access_line(exchange(principal=principal(identity)), NOW)
    assert encode_line(made).decode().isprintable()
    assert line_as_dict(made)["principal"]


@pytest.mark.parametrize("identity", ["\ud800", b"\xff"])
def test_what_cannot_be_encoded_is_escaped(identity: Any) -> None:
    text = encode_line(access_line(exchange(principal=principal(identity)), NOW)).decode()
    assert json.loads(text)["principal"]


@pytest.mark.parametrize("model", ["\udfff", "m\n\x9b", object()])
def test_no_model_breaks_the_line_or_raises(model: Any) -> None:
    attempt = Attempt(Target("p\u2029", "m\x7f"))
    attempt.upstream_request_id = "req_\x85\x1b"
    shown = line(exchange(route=Resolved(model), attempts=[attempt]))
    assert shown["model"]
    assert (shown["target"], shown["upstream_request_id"]) == ("p\u2029/m\x7f", "req_\x85\x1b")


def test_a_name_in_another_script_is_readable() -> None:
    shown = encode_line(access_line(exchange(principal=principal("Jürgen 山田")), NOW))
    assert "Jürgen 山田" in shown.decode()


# Time and level.


@pytest.mark.parametrize(
    ("now", "shown"),
    [
        (0.0, "1970-01-01T00:00:00.000Z"),
        (NOW, "2026-11-30T09:19:13.042Z"),
        (1_796_030_353.9999, "2026-11-30T09:19:13.999Z"),
    ],
)
def test_the_time_is_that_of_rfc_3339_with_milliseconds(now: float, shown: str) -> None:
    assert access_line(exchange(), now).time == shown


LEVELS = [
    ("info", "answered", 200),
    ("info", "answered", 400),  # an upstream's own refusal
    ("info", "refused", 401),
    ("info", "refused", 404),
    ("info", "refused", 429),
    ("info", "client_gone", None),
    ("info", "client_gone", 200),
    ("warning", "answered", 500),
    ("warning", "answered", 529),
    ("warning", "refused", 529),
    ("warning", "upstream_failed", 502),
    ("warning", "upstream_failed", 200),  # a stream that broke off
    ("warning", "cancelled", 200),
    ("warning", "cancelled", None),
    ("error", "refused", 500),  # the gateway's own failure
]


@pytest.mark.parametrize(("level", "outcome", "status"), LEVELS)
def test_the_level_shows_who_has_to_act(level: str, outcome: str, status: int | None) -> None:
    assert line(exchange(outcome=outcome, status=status))["level"] == level


def test_the_logger_drops_what_is_below_its_level(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING, "bud_asgi.access")
    AccessLog().settled(exchange(outcome="answered", status=200, principal=principal(object())))
    AccessLog().settled(exchange(outcome="upstream_failed", status=502))
    assert [record.levelname for record in caplog.records] == ["WARNING"]


# What was requested, by whom.


def test_what_was_requested_by_whom() -> None:
    headers = [(b"user-agent", b"Anthropic/Python 2.12"), (b"authorization", b"Bearer CANARY")]
    shown = line(
        exchange(
            headers,
            scope={"client": ("10.0.0.7", 5123)},
            operation="messages.create",
            principal=Principal(id="ci", team="web"),
            route=RouteTable([Route("claude-*", to=["anthropic"])]).resolve("claude-haiku-4-5[1m]", None),
            read_request=decode_request(BODY.replace(b"4-5", b"4-5[1m]"), counting=False, others=False),
            body_wait=0.25,
            revision=3,
        )
    )
    assert {name: shown[name] for name in list(shown)[7:]} == {
        "principal": "ci",
        "team": "web",
        "client_address": "10.0.0.7",
        "user_agent": "Anthropic/Python 2.12",
        "requested_model": "claude-haiku-4-5[1m]",
        "model": "claude-haiku-4-5",
        "route": "claude-*",
        "stream": True,
        "body_milliseconds": 250.0,
        "revision": 3,
    }


def test_each_value_is_in_the_field_of_its_name() -> None:
    usage = Usage(
        input_tokens=1,
        output_tokens=2,
        cache_creation_input_tokens=3,
        cache_read_input_tokens=4,
        cache_creation=CacheCreation(ephemeral_5m_input_tokens=5, ephemeral_1h_input_tokens=6),
        output_tokens_details=OutputTokensDetails(thinking_tokens=7),
        server_tool_use=ServerToolUse(web_search_requests=8),
        iterations=(Iteration(type="a", model="b", input_tokens=9),),
        service_tier="tier",
        inference_geo="geo",
        speed="speed",
        estimated=True,
    )
    attempt = Attempt(Target("bedrock", "m"), dropped=("metadata",), started=101.0, ended=104.0, first_event=103.0)
    attempt.status, attempt.end, attempt.upstream_request_id, attempt.guardrail = 200, "answered", "req_up", "NONE"
    shown = line(
        exchange(
            [(b"user-agent", b"agent")],
            scope={"client": ("10.0.0.7", 5123)},
            request_id="req_own",
            status=200,
            outcome="answered",
            started=100.0,
            ended=105.0,
            committed=103.5,
            longest_gap=0.75,
            body_wait=0.25,
            trace_id="trace",
            error_type="api_error",
            refused_by=Limit("requests", 60),
            over_limits=[Limit("requests", 10)],
            principal=Principal(id="ci", team="web"),
            route=RouteTable([Route("claude-*", to=["anthropic"])]).resolve("claude-haiku-4-5[1m]", None),
            read_request=decode_request(BODY.replace(b"4-5", b"4-5[1m]"), counting=False, others=False),
            attempts=[attempt],
            usage=usage,
            revision=3,
        )
    )
    assert shown.pop("added_milliseconds") > 0.0
    assert shown == {
        "time": "2026-11-30T09:19:13.042Z",
        "level": "info",
        "request_id": "req_own",
        "operation": None,
        "status": 200,
        "outcome": "answered",
        "milliseconds": 5000.0,
        "method": "POST",
        "path": "/v1/messages",
        "error_type": "api_error",
        "refused_by": "60 requests per minute",
        "over_limits": ["10 requests per minute"],
        "trace_id": "trace",
        "principal": "ci",
        "team": "web",
        "client_address": "10.0.0.7",
        "user_agent": "agent",
        "requested_model": "claude-haiku-4-5[1m]",
        "model": "claude-haiku-4-5",
        "route": "claude-*",
        "target": "bedrock/m",
        "attempts": [
            {
                "target": "bedrock/m",
                "start_milliseconds": 1000.0,
                "milliseconds": 3000.0,
                "first_event_milliseconds": 2000.0,
                "status": 200,
                "end": "answered",
            }
        ],
        "stream": True,
        "body_milliseconds": 250.0,
        "first_byte_milliseconds": 3500.0,
        "longest_gap_milliseconds": 750.0,
        "input_tokens": 1,
        "output_tokens": 2,
        "cache_creation_input_tokens": 3,
        "cache_read_input_tokens": 4,
        "ephemeral_5m_input_tokens": 5,
        "ephemeral_1h_input_tokens": 6,
        "thinking_tokens": 7,
        "server_tool_use": {"web_search_requests": 8},
        "iterations": [{"type": "a", "model": "b", "input_tokens": 9}],
        "service_tier": "tier",
        "inference_geo": "geo",
        "speed": "speed",
        "estimated": True,
        "dropped": ["metadata"],
        "upstream_request_id": "req_up",
        "guardrail": "NONE",
        "revision": 3,
    }
    assert {*shown, "added_milliseconds"} == {*AccessLine.__struct_fields__}


def test_a_model_that_no_route_has_is_still_shown() -> None:
    request = decode_request(BODY, counting=False, others=False)
    shown = line(exchange(operation="messages.create", read_request=request))
    assert shown["requested_model"] == "claude-haiku-4-5"
    assert not {"model", "route"} & shown.keys()
    assert line(exchange(operation="models.retrieve", model_id="claude-x"))["requested_model"] == "claude-x"


def test_where_no_operation_matches_the_line_has_method_and_path_but_never_a_query() -> None:
    path = "/v2/\x1b[2J\n\u2028\udce9" + "x" * 5000
    shown = line(exchange(scope={"path": path, "raw_path": b"/v2?q=Q"}))
    assert (shown["method"], shown["path"][:29]) == ("POST", "/v2/\\u001b[2J\\n\\u2028\\udce9xx")
    assert len(shown["path"]) < 250
    assert line(exchange(scope={"path": "/v2/x?api_key=CANARY"}))["path"] == "/v2/x"
    assert not {"method", "path"} & line(exchange(operation="messages.create")).keys()


@pytest.mark.parametrize(
    ("client", "shown"),
    [
        (("10.0.0.7", 1), "10.0.0.7"),
        (["fe80::1%eth0", 1], "fe80::1%eth0"),
        (("evil\r\n\x1b[31m", 0), "evil\\r\\n\\u001b[31m"),
        ((None, 0), "None"),
        (None, None),
        ((), None),
    ],
)
def test_the_client_is_the_one_that_the_server_names(client: Any, shown: str | None) -> None:
    assert line(exchange(scope={"client": client})).get("client_address") == shown


def test_texts_of_a_client_are_printable_and_short() -> None:
    headers = [(b"user-agent", b"\x1b]0;title\x07\n\x85" + b"\xff" * 5000)]
    shown = line(exchange(headers, scope={"method": "M" * 5000}))
    assert shown["user_agent"].startswith("\\u001b]0;title\\u0007\\n\\u0085ÿÿ")
    assert max(len(shown["user_agent"]), len(shown["method"])) < 300


TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"


def test_the_trace_is_that_of_the_span_or_else_of_the_client() -> None:
    headers = [(b"traceparent", f"00-{TRACE}-00f067aa0ba902b7-01".encode())]
    assert line(exchange(headers))["trace_id"] == TRACE
    assert line(exchange(headers, trace_id="f" * 32))["trace_id"] == "f" * 32
    assert "trace_id" not in line(exchange([(b"traceparent", b"forged")]))


# What became of it.


def test_each_attempt_has_its_target_end_status_and_times() -> None:
    one = exchange(operation="messages.create", status=200, outcome="answered")
    at = one.started
    first = Attempt(Target("anthropic"), started=at + 0.001, ended=at + 0.041, status=529, end="overloaded")
    second = Attempt(Target("bedrock", "claude"), ("speed",), started=at + 0.042, status=200, end="answered")
    second.first_event, second.ended, second.upstream_request_id = at + 0.5, at + 0.8, "req_up"
    one.attempts, one.committed, one.ended, one.longest_gap = [first, second], at + 0.5005, at + 0.8005, 0.1
    shown = line(one)
    assert shown["attempts"] == [
        {name: pytest.approx(value, abs=0.02) if isinstance(value, float) else value for name, value in attempt.items()}
        for attempt in (
            {
                "target": "anthropic",
                "start_milliseconds": 1.0,
                "milliseconds": 40.0,
                "status": 529,
                "end": "overloaded",
            },
            {
                "target": "bedrock/claude",
                "start_milliseconds": 42.0,
                "milliseconds": 758.0,
                "first_event_milliseconds": 458.0,
                "status": 200,
                "end": "answered",
            },
        )
    ]
    assert (shown["target"], shown["upstream_request_id"], shown["dropped"]) == ("bedrock/claude", "req_up", ["speed"])
    assert shown["added_milliseconds"] == pytest.approx(2.5, abs=0.03)
    assert shown["first_byte_milliseconds"] == pytest.approx(500.5, abs=0.03)
    assert shown["longest_gap_milliseconds"] == 100.0


def test_an_attempt_that_has_not_ended_has_no_time() -> None:
    (attempt,) = line(exchange(attempts=[Attempt(Target("p"))]))["attempts"]
    assert attempt.keys() == {"target", "start_milliseconds"}


def test_a_refusal_names_its_limit_and_its_error_type() -> None:
    limit = Limit("requests", 60)
    shown = line(exchange(refused_by=limit, over_limits=(limit,), error_type="rate_limit_error\n" + "x" * 900))
    assert shown["refused_by"] == "60 requests per minute"
    assert shown["over_limits"] == ["60 requests per minute"]
    assert shown["error_type"].startswith("rate_limit_error\\nx")
    assert len(shown["error_type"]) < 250


def test_many_dropped_fields_are_still_a_short_line() -> None:
    attempt = Attempt(Target("p"), tuple(f"beta-{number}\n" + "x" * 500 for number in range(100)))
    shown = line(exchange(attempts=[attempt]))
    assert (len(shown["dropped"]), shown["dropped"][0][:9]) == (20, "beta-0\\nx")
    assert len(json.dumps(shown)) < 6000


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
    assert len(encode_line(access_line(exchange(usage=usage), NOW))) < 2000


# The names and types are stable: what reads the lines depends on them.

FIELDS = {
    "time": "str",
    "level": "str",
    "request_id": "str",
    "operation": "str | None",
    "status": "int | None",
    "outcome": "Outcome | None",
    "milliseconds": "float",
    "method": "str | None",
    "path": "str | None",
    "error_type": "str | None",
    "refused_by": "str | None",
    "over_limits": "list[str] | None",
    "trace_id": "str | None",
    "principal": "str | None",
    "team": "str | None",
    "client_address": "str | None",
    "user_agent": "str | None",
    "requested_model": "str | None",
    "model": "str | None",
    "route": "str | None",
    "target": "str | None",
    "attempts": "list[AttemptLine] | None",
    "stream": "bool",
    "body_milliseconds": "float | None",
    "added_milliseconds": "float | None",
    "first_byte_milliseconds": "float | None",
    "longest_gap_milliseconds": "float | None",
    "input_tokens": "int | None",
    "output_tokens": "int | None",
    "cache_creation_input_tokens": "int | None",
    "cache_read_input_tokens": "int | None",
    "ephemeral_5m_input_tokens": "int | None",
    "ephemeral_1h_input_tokens": "int | None",
    "thinking_tokens": "int | None",
    "server_tool_use": "dict[str, int] | None",
    "iterations": "list[IterationLine] | None",
    "service_tier": "str | None",
    "inference_geo": "str | None",
    "speed": "str | None",
    "estimated": "bool",
    "dropped": "list[str] | None",
    "upstream_request_id": "str | None",
    "guardrail": "str | None",
    "revision": "int",
}
ATTEMPT_FIELDS = {
    "target": "str",
    "start_milliseconds": "float",
    "milliseconds": "float | None",
    "first_event_milliseconds": "float | None",
    "status": "int | None",
    "end": "AttemptEnd | None",
}
ALWAYS = {"time", "level", "request_id", "operation", "status", "outcome", "milliseconds", "revision"}


def test_no_field_is_renamed_or_removed() -> None:
    assert AccessLine.__annotations__ == FIELDS
    assert AttemptLine.__annotations__ == ATTEMPT_FIELDS
    assert line(exchange(operation="messages.create")).keys() == ALWAYS


def test_every_field_is_documented_in_its_order() -> None:
    section = (DOCS / "observability.md").read_text().partition("### Fields")[2].partition("\n##")[0]
    documented = re.findall(r"^\| `(\w+)` \| (?:string|integer|number|boolean|object)", section, re.MULTILINE)
    assert documented == [*FIELDS, *ATTEMPT_FIELDS]

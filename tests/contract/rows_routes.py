"""What is served where, and to whom: rows 1 to 4, 20 to 24, 27, rules 2, 5, 6, 12, 13."""

from __future__ import annotations

import json
import time
from typing import Any

from support.calls import KEY, MODEL
from support.gateway import provider
from support.ports import nowhere

from bud_asgi import Limit, Route
from bud_asgi.http import Timeouts
from bud_asgi.testing import error, html, json_body, redirect, reset_mid_event
from contract.line import (
    ALIAS,
    CREDENTIAL,
    PLAIN,
    RENAMED,
    STREAM,
    TYPE,
    UPSTREAM_NAME,
    VERSION,
    Line,
    Lines,
    body,
    log_noise,
)
from contract.quirks import MESSAGES

BEARER: Lines = [("authorization", f"Bearer {KEY}")]


def hello_is_answered_fast_and_not_forwarded(line: Line) -> None:
    """Row 1: without a credential, a word in the log or one to the upstream."""
    began = time.monotonic()
    with log_noise() as said:
        answer = line.request(None, method="HEAD", path="/api/hello", headers=[])
    assert answer.status in {200, 404}
    assert time.monotonic() - began < line.within
    assert answer.body == b""
    assert said == []
    assert not line.received


def routes_go_by_path_alone(line: Line) -> None:
    """Row 2, rule 5."""
    for query in ("", "?beta=true", "?beta=true&x=%2F", "?"):
        answer = line.request(path=f"/v1/messages{query}")
        assert answer.status == 200, answer.body
        assert line.received[-1].body == PLAIN


COUNTED = json.dumps(
    {"model": MODEL, "messages": [{"role": "user", "content": "How much is this?"}]}, indent=1
).encode()


def tokens_are_counted_by_the_upstream(line: Line) -> None:
    """Row 3: both ways byte for byte, with and without the query."""
    said = b'{"input_tokens" : 14}\n'
    for number, path in enumerate(("/v1/messages/count_tokens?beta=true", "/v1/messages/count_tokens")):
        line.upstream.enqueue(json_body(said))
        answer = line.request(COUNTED, path=path, more=[("anthropic-beta", "token-counting-2024-11-01")])
        assert (answer.status, answer.body) == (200, said)
        assert len(line.received) == number + 1
        assert line.received[-1].path == b"/v1/messages/count_tokens"
        assert line.received[-1].body == COUNTED
        assert line.received[-1].values("anthropic-beta") == [b"token-counting-2024-11-01"]


def counting_costs_nothing(line: Line) -> None:
    """Row 3: neither is it charged, nor stopped where nothing is left."""
    with line.with_options(limits=[Limit("requests", 2, window=3600.0)]) as other:
        counts = [other.request(COUNTED, path="/v1/messages/count_tokens?beta=true").status]
        asked = [other.request().status for _ in range(3)]
        counts.append(other.request(COUNTED, path="/v1/messages/count_tokens").status)
    assert asked == [200, 200, 429]
    assert counts == [200, 200]


ROUTES: list[tuple[str, str, bytes | None]] = [
    ("POST", "/v1/messages", PLAIN),
    ("POST", "/v1/messages/count_tokens", COUNTED),
    ("GET", "/v1/models", None),
    ("GET", f"/v1/models/{RENAMED}", None),
]


def either_form_of_the_credential_is_taken_everywhere(line: Line) -> None:
    """Row 4, rule 2: and none is taken for none."""
    for method, path, content in ROUTES:
        for proof in (CREDENTIAL, BEARER, (*BEARER, *CREDENTIAL)):
            answer = line.request(content, method=method, path=path, headers=[*proof, *VERSION, *TYPE])
            assert answer.status == 200, f"{path} {[name for name, _ in proof]} {answer.body[:200]!r}"
        before = len(line.received)
        for nobody in ([], [("x-api-key", "sk-of-nobody")], [("authorization", "Bearer sk-of-nobody")]):
            answer = line.request(content, method=method, path=path, headers=[*nobody, *VERSION, *TYPE])
            answer.assert_error(401, "authentication_error")
        assert len(line.received) == before


def the_body_alone_decides_whether_to_stream(line: Line) -> None:
    """Rule 6: whatever is accepted."""
    for accept in ("application/json", "text/event-stream", "*/*"):
        assert _type_of(line, STREAM, accept) == "text/event-stream; charset=utf-8"
        assert _type_of(line, PLAIN, accept) == "application/json"


def _type_of(line: Line, content: bytes, accept: str) -> str | None:
    return line.request(content, more=[("accept", accept)]).headers.get("content-type")


def a_failed_stream_can_be_retried_as_a_message(line: Line) -> None:
    """Row 20."""
    line.upstream.enqueue(reset_mid_event(), json_body(MESSAGES["spelled out"]))
    line.request(STREAM)
    answer = line.request(PLAIN)
    assert (answer.status, answer.headers.get("content-type")) == (200, "application/json")
    assert answer.body == MESSAGES["spelled out"]
    assert line.received[-1].body == PLAIN


def models_are_listed_at_once(line: Line) -> None:
    """Row 21: with one credential header, without a redirect."""
    for proof in (CREDENTIAL, BEARER):
        began = time.monotonic()
        answer = line.request(None, method="GET", path="/v1/models?limit=1000", headers=proof)
        assert time.monotonic() - began < min(line.within, 1.0)
        assert answer.status == 200, answer.body
        entries = answer.json()["data"]
        assert entries
        assert all(entry["id"] and entry["type"] == "model" for entry in entries)
        assert all(isinstance(entry["display_name"], str) for entry in entries)


def listed_names_are_those_to_ask_for(line: Line) -> None:
    """Row 22: among them all that clients look for, which have `claude` or `anthropic` in them."""
    listing = line.request(None, method="GET", path="/v1/models?limit=1000", headers=CREDENTIAL).json()
    names = [entry["id"] for entry in listing["data"]]
    assert {ALIAS, RENAMED, MODEL} <= set(names)
    assert len(names) == len(set(names))
    assert (listing["first_id"], listing["last_id"], listing["has_more"]) == (names[0], names[-1], False)
    for name in names:
        assert line.request(body(model=name)).status == 200, name
        one = line.request(None, method="GET", path=f"/v1/models/{name}", headers=CREDENTIAL)
        assert one.json() == next(entry for entry in listing["data"] if entry["id"] == name)


def names_of_the_gateways_own_are_routed(line: Line) -> None:
    """Row 23: with what clients send to a model that they do not know; a name that nobody knows is told by name."""
    answer = line.request(body(model=ALIAS, thinking={"type": "adaptive"}))
    assert answer.status == 200, answer.body
    sent = line.the_received().json()
    assert (sent["model"], sent.get("thinking")) == (UPSTREAM_NAME, {"type": "adaptive"})
    refusal = line.request(body(model="nobodys-model"))
    assert refusal.assert_error(404, "not_found_error") == "model: nobodys-model"
    assert len(line.received) == 1


def names_that_clients_have_built_in_are_routed(line: Line) -> None:
    """Row 24: for titles and summaries, whatever model the user has chosen."""
    for name in ("claude-haiku-4-5", "claude-haiku-4-5-20251001", "claude-haiku-5-5", "claude-sonnet-5"):
        assert line.request(body(model=name)).status == 200
        assert line.received[-1].json()["model"] == name


def nothing_is_redirected(line: Line) -> None:
    """Row 27: neither by the gateway nor by an upstream, where it would send body and credential elsewhere."""
    for path in ("/v1/messages/", "//v1/messages", "/v1/messages/count_tokens/"):
        line.request(path=path).assert_error(404, "not_found_error")
    assert not line.received
    for status in (301, 302, 307, 308):
        line.upstream.enqueue(redirect(f"{line.upstream.base_url}/elsewhere", status))
        line.request().assert_error(502, "api_error")
        assert line.received[-1].path == b"/v1/messages"


OWN_ERRORS: dict[str, tuple[int, str, dict[str, Any]]] = {
    "no such path": (404, "not_found_error", {"path": "/v1/nothing"}),
    "no such method": (405, "invalid_request_error", {"method": "PUT"}),
    "no credential": (401, "authentication_error", {"headers": VERSION}),
    "no version": (400, "invalid_request_error", {"headers": CREDENTIAL}),
    "no JSON": (400, "invalid_request_error", {"content": b"hello"}),
    "no object": (400, "invalid_request_error", {"content": b"[]"}),
    "no model": (400, "invalid_request_error", {"content": b'{"max_tokens":1,"messages":[{}]}'}),
    "no such model": (404, "not_found_error", {"content": body(model="nobodys-model")}),
    "batches": (404, "not_found_error", {"path": "/v1/messages/batches", "content": b"{}"}),
    "files": (404, "not_found_error", {"path": "/v1/files", "content": b"{}"}),
}


def errors_of_the_gateway_are_in_the_envelope(line: Line) -> None:
    """Rule 12: status and type that go together, and no retry where it is pointless."""
    for what, (status, kind, asked) in OWN_ERRORS.items():
        answer = line.request(**asked)
        assert answer.assert_error(status, kind), what
        assert answer.headers.get("x-should-retry") == "false", what
    assert not line.received
    line.upstream.enqueue(error(401, "authentication_error", "invalid x-api-key"), html(503))
    assert line.request().assert_error(502, "api_error") == "upstream authentication failed"
    answer = line.request()
    assert answer.assert_error(503, "api_error")
    assert "x-should-retry" not in answer.headers


BOUND: dict[str, bytes] = {
    "a thread": body(thread={"type": "continue", "previous_message_id": "msg_01Q"}),
    "a container": body(container="container_01Q"),
    "a container with skills": body(container={"skills": [{"type": "custom", "skill_id": "skill_01Q"}]}),
    "a file": body(
        messages=[{"role": "user", "content": [{"type": "document", "source": {"type": "file", "file_id": "file_1"}}]}]
    ),
    "a fallback token": body(fallback_credit_token="fct_01Q"),
}


def state_of_one_account_goes_to_no_other(line: Line) -> None:
    """Rule 13: a request that names such state stays with its upstream, though that is not there; any other goes on."""
    dead = nowhere()

    def accounts(url: str) -> list[Any]:
        patient = Timeouts(2.0, 8.0, 8.0)
        return [provider(dead, name="one"), provider(url, name="another", timeouts=patient)]

    with line.with_options(providers=accounts, routes=[Route("*", to=["one", "another"])]) as other:
        assert other.request().status == 200
        for what, content in BOUND.items():
            before = len(other.received)
            answer = other.request(content)
            assert len(other.received) == before, what
            answer.assert_error(502, "api_error")

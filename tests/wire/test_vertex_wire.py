"""Claude on Vertex AI behind a gateway: responses arrive as they came, errors become those of the Messages API."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import anthropic
import httpx
import pytest
from support.calls import BODY, HEADERS, KEY, MODEL
from support.gateway import PATIENT, Gateway, gateway

from bud_asgi import Route
from bud_asgi.providers.refresher import RefreshTiming
from bud_asgi.providers.vertex import Vertex
from bud_asgi.providers.vertex.credential import GoogleCredential
from bud_asgi.testing import (
    Received,
    Reply,
    StandIn,
    ThreadedStandIn,
    error,
    hang,
    json_body,
    late,
    sse,
    text,
    tool_use,
)
from bud_asgi.testing import vertex as stand_ins
from bud_asgi.testing.google import PROJECT, Google, google_error, google_html, oauth_error
from bud_asgi.testing.vertex import (
    model_not_allowed,
    permission_denied,
    quota_exceeded,
    token_expired,
    unavailable,
)

PARENT = f"/v1/projects/{PROJECT}/locations/global/publishers/anthropic/models"
THERE = "claude-haiku-4-5@20251001"


class Stage:
    """A gateway before Vertex AI, with Google's tokens from the key file of a service account."""

    def __init__(self, here: Gateway, upstream: ThreadedStandIn, tokens: ThreadedStandIn, google: Google) -> None:
        self.here, self.upstream, self.tokens, self.google = here, upstream, tokens, google

    @property
    def sent(self) -> Received:
        """The latest request that went to Vertex AI."""
        return self.upstream.requests[-1]

    def post(self, body: Any = None) -> httpx.Response:
        """One request for a Message."""
        return self.here.post(body)

    def count(self, model: str = MODEL) -> httpx.Response:
        """One request for a count of tokens."""
        body = {"model": model, "messages": BODY["messages"]}
        return httpx.post(f"{self.here.base_url}/v1/messages/count_tokens?beta=true", headers=HEADERS, json=body)

    def at_once(self, count: int) -> list[httpx.Response]:
        """So many requests for a Message at the same time."""
        with ThreadPoolExecutor(count) as pool:
            return [future.result() for future in [pool.submit(self.post) for _ in range(count)]]


@contextmanager
def staged(
    tmp_path: Path,
    *,
    service: Callable[[Google], Any] | None = None,
    timing: RefreshTiming | None = None,
    **options: Any,
) -> Generator[Stage]:
    google = Google()
    with ExitStack() as stack:
        tokens = stack.enter_context(StandIn.of(google).in_thread())
        there = stand_ins.Vertex(tokens=google.tokens) if service is None else service(google)
        upstream = stack.enter_context(StandIn.of(there).in_thread())
        key = tmp_path / "key.json"
        key.write_text(json.dumps(google.account.info(tokens.base_url)))
        settings: dict[str, Any] = {
            "project": PROJECT,
            "base_url": upstream.base_url,
            "service_account_file": key,
            "timeouts": PATIENT,
            **options,
        }
        provider = Vertex(**settings)
        if timing is not None:
            provider.credential = GoogleCredential(service_account_file=key, timing=timing)
        here = stack.enter_context(gateway("", providers=[provider], routes=[Route("claude-*", to=["vertex"])]))
        yield Stage(here, upstream, tokens, google)
        here.assert_nothing_open()


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Stage]:
    """One whose requests Vertex AI never refuses."""
    with staged(tmp_path) as one:
        yield one
        assert [request.refusal for request in one.upstream.refused] == []
        assert [request.refusal for request in one.tokens.refused] == []


def test_a_message(stage: Stage) -> None:
    reply = stage.post()
    assert reply.status_code == 200
    assert reply.json()["model"] == "claude-haiku-4-5-20251001"
    assert reply.json()["id"].startswith("msg_vrtx_")
    assert reply.headers["upstream-request-id"] == stage.sent.request_id
    assert reply.headers["request-id"].startswith("req_")
    internal = ("x-vertex-ai-internal-prediction-backend", "alt-svc", "x-frame-options", "x-xss-protection", "vary")
    assert [name for name in internal if name in reply.headers] == []
    assert stage.sent.target == f"{PARENT}/{THERE}:rawPredict".encode()
    assert stage.sent.json() == {
        "anthropic_version": "vertex-2023-10-16",
        **{name: value for name, value in BODY.items() if name != "model"},
    }
    names = {name.lower() for name, _ in stage.sent.headers}
    assert names == {
        *(b"accept", b"accept-encoding", b"authorization", b"content-length", b"content-type", b"host", b"user-agent"),
        b"bud-hops",
    }
    assert KEY.encode() not in b"".join(value for _, value in stage.sent.headers)
    usage = stage.here.account().usage
    assert usage is not None
    assert usage.output_tokens == reply.json()["usage"]["output_tokens"]
    assert stage.here.account().outcome == "answered"


STREAM = (
    b'event: message_start\ndata: {"type":"message_start","message":{"id":"msg_vrtx_1","type":"message","role":'
    b'"assistant","model":"m","content":[],"usage":{"input_tokens":3,"output_tokens":1}}}         \n\n'
    b'event: ping\ndata: {"type": "ping"    }\n\n'
    b'event: content_block_delta\ndata: {"delta":{"text":"\xe2\x80\xa8 \xf0\x9f\x98\x80"}}   \n\n'
    b'event: message_delta\ndata: {"delta":{"stop_reason":"end_turn"},"usage":{"output_tokens":9}}\n\n'
    b'event: message_stop\ndata: {"type":"message_stop"       }\n\n'
)


@pytest.mark.parametrize("one_byte", [False, True])
def test_a_stream_arrives_byte_for_byte(stage: Stage, one_byte: bool) -> None:
    stage.upstream.enqueue(sse(STREAM, one_byte=one_byte))
    reply = stage.post({"stream": True})
    assert reply.content == STREAM
    assert reply.headers["content-type"] == "text/event-stream; charset=utf-8"
    assert stage.sent.target == f"{PARENT}/{THERE}:streamRawPredict".encode()
    assert stage.sent.json()["stream"] is True
    usage = stage.here.account().usage
    assert usage is not None
    assert (usage.input_tokens, usage.output_tokens) == (3, 9)


def test_tokens_are_counted(stage: Stage) -> None:
    reply = stage.count()
    assert (reply.status_code, list(reply.json())) == (200, ["input_tokens"])
    assert stage.sent.target == f"{PARENT}/count-tokens:rawPredict".encode()
    assert stage.sent.json()["model"] == THERE


def test_the_official_sdk_runs_a_tool_over_a_stream(stage: Stage) -> None:
    stage.upstream.enqueue(tool_use("weather", {"city": "Ulm"}, text="Let me look."), text("It rains."))
    tool: Any = {"name": "weather", "input_schema": {"type": "object", "properties": {"city": {"type": "string"}}}}
    asked: dict[str, Any] = {"model": MODEL, "max_tokens": 100, "tools": [tool]}
    messages: list[Any] = [{"role": "user", "content": "Weather in Ulm?"}]
    with anthropic.Anthropic(api_key=KEY, base_url=stage.here.base_url, max_retries=0) as client:
        with client.messages.stream(messages=messages, **asked) as stream:
            answer = stream.get_final_message()
        use = next(block for block in answer.content if block.type == "tool_use")
        assert (use.name, use.input, use.id[:12]) == ("weather", {"city": "Ulm"}, "toolu_vrtx_0")
        result = {"role": "user", "content": [{"type": "tool_result", "tool_use_id": use.id, "content": "Rain"}]}
        messages += [{"role": "assistant", "content": answer.content}, result]
        with client.messages.stream(messages=messages, **asked) as stream:
            assert stream.get_final_text() == "It rains."


def test_what_vertex_ai_lacks_is_left_out_and_named(stage: Stage) -> None:
    headers = {**HEADERS, "anthropic-beta": "claude-code-20250219,advanced-tool-use-2025-11-20,oauth-2025-04-20"}
    system = [{"type": "text", "text": "x", "cache_control": {"type": "ephemeral", "scope": "global"}}]
    body = {**BODY, "system": system}
    reply = httpx.post(f"{stage.here.base_url}/v1/messages?beta=true", headers=headers, json=body)
    assert reply.status_code == 200, reply.text
    assert "oauth-2025-04-20" in reply.headers["bud-dropped"]
    assert "tool-search-tool-2025-10-19" in (stage.sent.header("anthropic-beta") or b"").decode()
    assert stage.sent.json()["system"][0]["cache_control"] == {"type": "ephemeral"}


GENERIC = "The upstream does not let the gateway use this model."
QUOTA = (
    "Quota exceeded for aiplatform.googleapis.com/global_online_prediction_requests_per_base_model with base model: "
    "anthropic-claude-haiku-4-5. Please submit a quota increase request. "
    "https://cloud.google.com/vertex-ai/docs/generative-ai/quotas-genai."
)
FRONT_END: dict[str, tuple[Callable[[Received], Reply] | Reply, int, str, str]] = {
    "denied": (permission_denied(), 403, "permission_error", GENERIC),
    "not allowed": (model_not_allowed(), 403, "permission_error", GENERIC),
    "quota": (quota_exceeded(), 429, "rate_limit_error", QUOTA),
    "unavailable": (unavailable(), 529, "overloaded_error", "The service is currently unavailable."),
    "internal": (google_error("INTERNAL", f"{PROJECT} broke"), 500, "api_error", "The upstream failed."),
    "invalid": (
        google_error("INVALID_ARGUMENT", f"Project `{PROJECT}`: bad"),
        *(400, "invalid_request_error", "Project [project]: bad"),
    ),
    "slow": (
        google_error("DEADLINE_EXCEEDED", "x"),
        *(504, "timeout_error", "The model did not answer in time."),
    ),
    "a page": (google_html(502), 502, "api_error", "The upstream answered 502 without an error object."),
}


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(("fault", "status", "kind", "message"), FRONT_END.values(), ids=FRONT_END.keys())
def test_an_error_of_the_front_end(
    stage: Stage, caplog: pytest.LogCaptureFixture, fault: Any, status: int, kind: str, message: str, stream: bool
) -> None:
    caplog.set_level(logging.WARNING, "bud_asgi")
    stage.upstream.enqueue(fault)
    reply = stage.post({"stream": stream})
    said = reply.json()
    assert (reply.status_code, said["error"]) == (status, {"type": kind, "message": message})
    assert said["request_id"] == reply.headers["request-id"]
    assert PROJECT not in reply.text
    assert len(stage.upstream.requests) == 1
    assert str(status if status in {502, 504} else "") in caplog.text
    assert reply.headers.get("x-should-retry") == ("false" if status in {400, 403} else None)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("status", "kind", "message"),
    [
        (400, "invalid_request_error", "prompt is too long: 208310 tokens > 200000 maximum"),
        (413, "request_too_large", "Prompt is too long"),
        (529, "overloaded_error", "Overloaded"),
    ],
)
def test_an_error_of_the_model_layer_arrives_as_it_came(
    stage: Stage, status: int, kind: str, message: str, stream: bool
) -> None:
    stage.upstream.enqueue(error(status, kind, message))
    reply = stage.post({"stream": stream})
    assert reply.status_code == status
    assert reply.json()["error"] == {"type": kind, "message": message}
    assert reply.json()["request_id"].startswith("req_vrtx_")
    assert reply.json()["request_id"] == reply.headers["upstream-request-id"] == stage.sent.request_id


@pytest.mark.parametrize("listed", [False, True], ids=["object", "array"])
@pytest.mark.parametrize("status", [429, 503])
def test_an_error_of_the_front_end_keeps_its_retry_headers_and_request_id(
    tmp_path: Path, status: int, listed: bool
) -> None:
    detail = {"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": "7.2s"}
    name = {429: "RESOURCE_EXHAUSTED", 503: "UNAVAILABLE"}[status]
    error = {"error": {"code": status, "message": "x", "status": name, "details": [detail]}}
    body = [error] if listed else error
    lines = {"retry-after": "34", "retry-after-ms": "34000", "x-should-retry": "false", "request-id": "req_vrtx_1"}
    with staged(tmp_path) as stage:
        stage.upstream.enqueue(json_body(body, status=status, headers=lines), json_body(body, status=status))
        reply = stage.post({"stream": listed})
        assert reply.status_code == {429: 429, 503: 529}[status]
        assert {name: reply.headers[name] for name in lines if name != "request-id"} == {
            name: value for name, value in lines.items() if name != "request-id"
        }
        assert reply.headers["upstream-request-id"] == "req_vrtx_1"
        assert stage.post().headers["retry-after"] == "8"


def test_a_flag_that_it_does_not_know_is_named(tmp_path: Path) -> None:
    with staged(tmp_path, allow_betas=["new-2031-01-01"]) as stage:
        headers = {**HEADERS, "anthropic-beta": "new-2031-01-01"}
        reply = httpx.post(f"{stage.here.base_url}/v1/messages", headers=headers, json=BODY)
        assert reply.status_code == 400
        assert "`new-2031-01-01`" in reply.json()["error"]["message"]
        assert len(stage.upstream.refused) == 1


def test_a_model_that_is_not_there_has_the_clients_name(tmp_path: Path) -> None:
    with staged(tmp_path) as stage:
        reply = stage.post({"model": "claude-does-not-exist"})
        assert (reply.status_code, reply.json()["error"]["type"]) == (404, "not_found_error")
        assert reply.json()["error"]["message"] == "model: claude-does-not-exist"
        counted = stage.count("claude-does-not-exist")
        assert counted.json()["error"]["message"] == "model: claude-does-not-exist"


def test_an_error_does_not_show_the_project(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with staged(tmp_path, project="another-project") as stage:
        reply = stage.post()
        assert (reply.status_code, reply.json()["error"]["message"]) == (403, GENERIC)
        assert "another-project" not in reply.text
        assert "another-project" in caplog.text


def test_a_location_that_does_not_count(tmp_path: Path) -> None:
    def service(google: Google) -> stand_ins.Vertex:
        return stand_ins.Vertex(
            tokens=google.tokens, locations=("global", "us-east5"), counting_locations=("us-east5",)
        )

    with staged(tmp_path, service=service) as stage:
        reply = stage.count()
        assert (reply.status_code, reply.json()["error"]["type"]) == (404, "not_found_error")
        assert reply.json()["error"]["message"] == "The upstream of this model does not count tokens."
    with staged(tmp_path, service=service, count_region="us-east5") as stage:
        assert stage.count().status_code == 200
        assert stage.post().status_code == 200


def test_a_quota_project_is_sent(tmp_path: Path) -> None:
    def service(google: Google) -> stand_ins.Vertex:
        return stand_ins.Vertex(tokens=google.tokens, quota_projects=("billing",))

    with staged(tmp_path, service=service, quota_project="billing") as stage:
        assert stage.post().status_code == 200
        assert stage.sent.header("x-goog-user-project") == b"billing"
    with staged(tmp_path, quota_project="not-mine") as stage:
        assert stage.post().json()["error"]["message"] == GENERIC


def test_first_requests_share_one_token(stage: Stage) -> None:
    stage.tokens.enqueue(lambda received: late(0.2, stage.google.answer(received)))
    assert [reply.status_code for reply in stage.at_once(50)] == [200] * 50
    assert len(stage.tokens.requests) == 1


@pytest.mark.parametrize("stream", [False, True])
def test_a_token_that_is_refused_is_renewed_once(tmp_path: Path, stream: bool) -> None:
    with staged(tmp_path) as stage:
        assert stage.post().status_code == 200
        stage.google.tokens.expire()
        assert stage.post({"stream": stream}).status_code == 200
        assert len(stage.tokens.requests) == 2
        assert [request.refusal is None for request in stage.upstream.requests] == [True, False, True]
        assert stage.here.account().outcome == "answered"


def test_many_refused_at_once_share_one_new_token(tmp_path: Path) -> None:
    with staged(tmp_path) as stage:
        assert stage.post().status_code == 200
        stage.google.tokens.expire()
        assert [reply.status_code for reply in stage.at_once(20)] == [200] * 20
        assert len(stage.tokens.requests) == 2


def test_a_token_that_is_always_refused_is_a_502(stage: Stage, caplog: pytest.LogCaptureFixture) -> None:
    stage.upstream.always(token_expired())
    reply = stage.post()
    assert (reply.status_code, reply.json()["error"]) == (
        502,
        {"type": "api_error", "message": "upstream authentication failed"},
    )
    assert len(stage.upstream.requests) == 2
    assert "rejected our credential" in caplog.text
    assert "ya29" not in caplog.text


def test_a_token_endpoint_that_refuses(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with staged(tmp_path) as stage:
        stage.tokens.enqueue(oauth_error("invalid_grant", "Invalid grant: account not found"))
        reply = stage.post({"stream": True})
        assert (reply.status_code, reply.json()["error"]) == (
            502,
            {"type": "api_error", "message": "upstream authentication failed"},
        )
        assert "account not found" in caplog.text
        assert "account not found" in str(stage.here.account().attempts[0].failure)
        assert stage.upstream.requests == []


def test_a_token_endpoint_that_hangs(tmp_path: Path) -> None:
    with staged(tmp_path, timing=RefreshTiming(timeout=0.5)) as stage:
        stage.tokens.enqueue(hang())
        replies = stage.at_once(10)
        assert {reply.status_code for reply in replies} == {502}
        assert {reply.elapsed.total_seconds() < 1.5 for reply in replies} == {True}
        assert httpx.get(f"{stage.here.base_url}/healthz").status_code == 200
        assert stage.upstream.requests == []


def test_models_are_those_of_the_catalogue(stage: Stage) -> None:
    reply = httpx.get(f"{stage.here.base_url}/v1/models?limit=1000", headers=HEADERS)
    listed = [model["id"] for model in reply.json()["data"]]
    assert {"claude-opus-5", "claude-haiku-4-5-20251001"} <= set(listed)
    assert "claude-mythos-preview" not in listed
    assert stage.upstream.requests == []

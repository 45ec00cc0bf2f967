"""Replies of the Vertex AI stand-in: streams, headers, and the errors of both layers."""

from collections.abc import AsyncIterator

import pytest

from bud_asgi.testing import (
    Reply,
    StandIn,
    cut_before_message_stop,
    eof_mid_event,
    error,
    error_mid_stream,
    hang,
    text,
    tool_use,
)
from bud_asgi.testing.google import Tokens, google_error, google_html
from bud_asgi.testing.vertex import (
    Fault,
    Vertex,
    model_not_allowed,
    permission_denied,
    quota_exceeded,
    token_expired,
    unavailable,
)
from testing.stream_grammar import events_of, message_of
from testing.vertex.raw_client import CREATE, RESOURCE, STREAM, VertexClient, without


@pytest.fixture
async def vertex() -> AsyncIterator[VertexClient]:
    tokens = Tokens()
    async with StandIn.of(Vertex(tokens=tokens)) as upstream:
        yield VertexClient(upstream, tokens)


@pytest.mark.parametrize("reply", [None, text(""), tool_use("a", {"city": "Bern"}, text="So.")])
async def test_a_stream_keeps_the_grammar_with_its_ping_first(vertex: VertexClient, reply: Reply | None) -> None:
    head, content, whole, _ = await vertex.stream(reply)
    assert head.startswith(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\n")
    assert whole
    kinds = [event["type"] for event in events_of(content)]
    assert kinds[:3] == ["message_start", "ping", "content_block_start"]
    assert kinds.count("ping") == 1
    message = message_of(content)
    calls = [block for block in message["content"] if block["type"] == "tool_use"]
    assert all(made["id"].startswith(("msg_vrtx_01", "toolu_vrtx_01")) for made in (message, *calls))


async def test_headers_are_those_of_google(vertex: VertexClient) -> None:
    _, head, _ = await vertex()
    names = {line.partition(":")[0] for line in head.splitlines()[1:]}
    assert {"request-id", "x-vertex-ai-internal-prediction-backend", "vary", "server", "alt-svc"} <= names
    assert not [name for name in names if name.startswith("anthropic")]
    assert head.partition("request-id: ")[2].startswith("req_vrtx_01")


FAULTS: dict[str, tuple[Fault, int, str, str]] = {
    "quota": (
        quota_exceeded(),
        429,
        "RESOURCE_EXHAUSTED",
        (
            "Quota exceeded for aiplatform.googleapis.com/global_online_prediction_requests_per_base_model with base "
            "model: anthropic-claude-opus-5."
        ),
    ),
    "expired": (token_expired(), 401, "UNAUTHENTICATED", "Request had invalid authentication credentials."),
    "denied": (permission_denied(), 403, "PERMISSION_DENIED", "Permission 'aiplatform.endpoints.predict' denied on"),
    "not allowed": (
        model_not_allowed(),
        400,
        "FAILED_PRECONDITION",
        f"Project `bud-stand-in` is not allowed to use Publisher Model `{RESOURCE}`",
    ),
    "unavailable": (unavailable(), 503, "UNAVAILABLE", "The service is currently unavailable."),
    "any": (google_error("DEADLINE_EXCEEDED", "Too late."), 504, "DEADLINE_EXCEEDED", "Too late."),
}


@pytest.mark.parametrize(("fault", "code", "status", "expected_message"), FAULTS.values(), ids=FAULTS.keys())
async def test_a_fault_of_the_front_end_has_both_shapes(
    vertex: VertexClient, fault: Fault, code: int, status: str, expected_message: str
) -> None:
    vertex.upstream.always(fault)
    whole, listed = await vertex(), await vertex(STREAM, without(stream=True))
    assert listed[2] == [whole[2]]
    for got, head, _ in (whole, listed):
        assert got == code
        assert "\r\ncontent-type: application/json; charset=UTF-8" in head
        assert "request-id" not in head
    answer = whole[2]["error"]
    assert (answer["code"], answer["status"]) == (code, status)
    assert answer["message"].startswith(expected_message)
    assert vertex.upstream.refused == []


async def test_an_error_of_the_model_layer_is_in_the_envelope(vertex: VertexClient) -> None:
    vertex.upstream.always(error(529, "overloaded_error", "Overloaded"))
    for target in (CREATE, STREAM):
        status, head, answer = await vertex(target, without(stream=target == STREAM))
        assert (status, answer["error"]) == (529, {"type": "overloaded_error", "message": "Overloaded"})
        assert f"request-id: {answer['request_id']}\r\n" in head


async def test_the_html_page_of_the_front_end(vertex: VertexClient) -> None:
    vertex.upstream.enqueue(google_html())
    status, head, page = await vertex()
    assert (status, "text/html" in head, "<title>Error 502</title>" in page) == (502, True, True)


async def test_a_stream_can_fail_in_every_way(vertex: VertexClient) -> None:
    _, content, whole, ended = await vertex.stream(cut_before_message_stop())
    assert (events_of(content)[-1]["type"], whole, ended) == ("message_delta", False, "eof")
    _, content, whole, ended = await vertex.stream(cut_before_message_stop(clean=True))
    assert (events_of(content)[-1]["type"], whole, ended) == ("message_delta", True, "open")
    _, content, whole, ended = await vertex.stream(eof_mid_event(700))
    assert (len(content), whole, ended) == (700, False, "eof")
    _, content, whole, _ = await vertex.stream(error_mid_stream(after_events=3))
    answer = events_of(content)
    assert ([event["type"] for event in answer][-1], whole) == ("error", True)
    assert [event["type"] for event in answer].count("ping") == 1
    assert answer[-1]["request_id"].startswith("req_vrtx_01")
    assert await vertex.stream(hang()) == (b"", b"", False, "open")

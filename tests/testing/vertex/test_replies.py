"""How the Vertex AI stand-in answers: streams, headers, and the faults of both layers."""

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
from testing.vertex.raw_client import CREATE, RESOURCE, STREAM, Asked, without


@pytest.fixture
async def asked() -> AsyncIterator[Asked]:
    tokens = Tokens()
    async with StandIn.of(Vertex(tokens=tokens)) as upstream:
        yield Asked(upstream, tokens)


@pytest.mark.parametrize("reply", [None, text(""), tool_use("a", {"city": "Bern"}, text="So.")])
async def test_a_stream_keeps_the_grammar_with_its_ping_first(asked: Asked, reply: Reply | None) -> None:
    head, content, whole, _ = await asked.stream(reply)
    assert head.startswith(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\n")
    assert whole
    kinds = [event["type"] for event in events_of(content)]
    assert kinds[:3] == ["message_start", "ping", "content_block_start"]
    assert kinds.count("ping") == 1
    message = message_of(content)
    calls = [block for block in message["content"] if block["type"] == "tool_use"]
    assert all(made["id"].startswith(("msg_vrtx_01", "toolu_vrtx_01")) for made in (message, *calls))


async def test_headers_are_googles(asked: Asked) -> None:
    _, head, _ = await asked()
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


@pytest.mark.parametrize(("fault", "code", "status", "words"), FAULTS.values(), ids=FAULTS.keys())
async def test_a_fault_of_the_front_end_has_both_shapes(
    asked: Asked, fault: Fault, code: int, status: str, words: str
) -> None:
    asked.upstream.always(fault)
    whole, listed = await asked(), await asked(STREAM, without(stream=True))
    assert listed[2] == [whole[2]]
    for got, head, _ in (whole, listed):
        assert got == code
        assert "\r\ncontent-type: application/json; charset=UTF-8" in head
        assert "request-id" not in head
    told = whole[2]["error"]
    assert (told["code"], told["status"]) == (code, status)
    assert told["message"].startswith(words)
    assert asked.upstream.refused == []


async def test_a_fault_of_the_model_layer_is_the_envelope(asked: Asked) -> None:
    asked.upstream.always(error(529, "overloaded_error", "Overloaded"))
    for target in (CREATE, STREAM):
        status, head, told = await asked(target, without(stream=target == STREAM))
        assert (status, told["error"]) == (529, {"type": "overloaded_error", "message": "Overloaded"})
        assert f"request-id: {told['request_id']}\r\n" in head


async def test_the_front_ends_page(asked: Asked) -> None:
    asked.upstream.enqueue(google_html())
    status, head, page = await asked()
    assert (status, "text/html" in head, "<title>Error 502</title>" in page) == (502, True, True)


async def test_a_stream_can_break_in_every_way(asked: Asked) -> None:
    _, content, whole, ended = await asked.stream(cut_before_message_stop())
    assert (events_of(content)[-1]["type"], whole, ended) == ("message_delta", False, "eof")
    _, content, whole, ended = await asked.stream(cut_before_message_stop(clean=True))
    assert (events_of(content)[-1]["type"], whole, ended) == ("message_delta", True, "open")
    _, content, whole, ended = await asked.stream(eof_mid_event(700))
    assert (len(content), whole, ended) == (700, False, "eof")
    _, content, whole, _ = await asked.stream(error_mid_stream(after_events=3))
    told = events_of(content)
    assert ([event["type"] for event in told][-1], whole) == ("error", True)
    assert [event["type"] for event in told].count("ping") == 1
    assert told[-1]["request_id"].startswith("req_vrtx_01")
    assert await asked.stream(hang()) == (b"", b"", False, "open")

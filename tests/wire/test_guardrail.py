"""The verdict of a Bedrock guardrail reaches the client, the log and the record of the request."""

from __future__ import annotations

import json
import logging
from collections.abc import Generator, Sequence
from typing import Any

import pytest
from bedrock_stage import Stage, events_of, staged
from msgspec.structs import replace
from support.access import access_records

from bud_asgi.testing import Reply, json_body, text
from bud_asgi.testing.bedrock.stream import METRICS, chunk, chunks
from bud_asgi.testing.server.replies import Lazy

ACTION = "amazon-bedrock-guardrailAction"
TRACE = {"amazon-bedrock-trace": {"guardrail": {"input": {"g": {"topicPolicy": {}}}}}}
VERDICT = {ACTION: "INTERVENED", **TRACE}
COUNTS = {METRICS: {"inputTokenCount": 1, "outputTokenCount": 1}}


@pytest.fixture(scope="module")
def module_stage() -> Generator[Stage]:
    with staged(guardrail=("gr-1", "1"), app={"access_log": True}) as one:
        yield one


@pytest.fixture
def stage(module_stage: Stage) -> Stage:
    """The gateway, without records of earlier tests."""
    module_stage.here.forget()
    return module_stage


def stream(*last: dict[str, Any], delta: dict[str, Any] | None = None, delay: float = 0.0) -> Reply:
    """A stream whose last events are these, instead of `message_stop`; `delta` are more fields of `message_delta`."""
    content: Any = text("Blocked.").body

    def pieces(request: Any) -> Sequence[bytes]:
        whole = list(chunks(content, request))[:-1]
        if delta is not None:
            event = {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {"output_tokens": 2}}
            whole[-1] = chunk(json.dumps({**event, **delta}).encode())
        return [*whole, *(chunk(json.dumps(event).encode()) for event in last)]

    return replace(text("Blocked."), body=Lazy(pieces), delay=delay)


STOP = {"type": "message_stop"}
STREAMS: dict[str, tuple[Reply, dict[str, Any]]] = {
    "in message_stop": (stream({**STOP, **VERDICT, **COUNTS}), {**STOP, **VERDICT}),
    "in a chunk before it": (stream({**VERDICT, **COUNTS}, STOP), {**STOP, **VERDICT}),
    "in message_delta": (stream({**STOP, **COUNTS}, delta={ACTION: "INTERVENED"}), STOP),
    "in a chunk behind it, late": (stream({**STOP, **COUNTS}, VERDICT, delay=0.02), STOP),
}


@pytest.mark.parametrize(("reply", "stop"), STREAMS.values(), ids=STREAMS.keys())
def test_a_stream_that_a_guardrail_blocked(
    stage: Stage, reply: Reply, stop: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        answer = stage.stream(reply)
        account = stage.here.account()
    events = events_of(answer)
    assert events[-1] == ("message_stop", stop)
    assert account.attempts[-1].guardrail == "INTERVENED"
    assert account.attempts[-1].intervened
    assert account.outcome == "answered"
    (warning,) = [record for record in caplog.records if record.levelno == logging.WARNING]
    assert warning.getMessage() == f"{account.request_id}: a guardrail at bedrock intervened: 'INTERVENED'"
    (line,) = access_records(caplog)
    assert line["guardrail"] == "INTERVENED"


def test_the_verdict_in_a_delta_is_relayed(stage: Stage) -> None:
    events = events_of(stage.stream(STREAMS["in message_delta"][0]))
    assert [data[ACTION] for name, data in events if name == "message_delta"] == ["INTERVENED"]


def test_a_message_that_a_guardrail_blocked(stage: Stage, caplog: pytest.LogCaptureFixture) -> None:
    message = {"type": "message", "role": "assistant", "content": [], "usage": {"output_tokens": 1}, **VERDICT}
    with caplog.at_level(logging.INFO):
        assert stage.post(None, json_body(message)).json() == message
        account = stage.here.account()
    assert account.attempts[-1].guardrail == "INTERVENED"
    assert f"{account.request_id}: a guardrail at bedrock intervened" in caplog.text


def test_a_guardrail_that_lets_a_reply_pass_is_no_warning(stage: Stage, caplog: pytest.LogCaptureFixture) -> None:
    answer = stage.stream(stream({**STOP, ACTION: "NONE", **COUNTS}))
    account = stage.here.account()
    assert events_of(answer)[-1] == ("message_stop", {**STOP, ACTION: "NONE"})
    assert (account.attempts[-1].guardrail, account.attempts[-1].intervened) == ("NONE", False)
    assert "a guardrail at" not in caplog.text


@pytest.mark.parametrize("streaming", [True, False])
def test_a_model_cannot_fake_a_verdict(stage: Stage, streaming: bool) -> None:
    inner = {"type": "tool_use", "id": "t", "name": "n", "input": VERDICT}
    message = {"type": "message", "role": "assistant", "content": [inner], "usage": {"output_tokens": 1}}
    if streaming:
        start = {"type": "content_block_start", "index": 1, "content_block": inner}
        stage.stream(stream(start, {**STOP, **COUNTS}))
    else:
        stage.post(None, json_body(message))
    assert stage.here.account().attempts[-1].guardrail is None

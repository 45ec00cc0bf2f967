"""What Bedrock can say and do wrong: what the client gets then, what the account and the log say."""

from __future__ import annotations

import logging
from collections.abc import Callable, Generator
from typing import Any

import pytest
from bedrock_stage import ACCOUNT, CLOSED, ENDED, FAILED, PROTOCOL, Stage, error_of, events_of, staged
from support.calls import MODEL
from support.gateway import impatient

from bud_asgi.testing import (
    Received,
    Reply,
    cut_before_message_stop,
    eof_mid_event,
    hang,
    hang_mid_event,
    json_body,
    reset_mid_event,
)
from bud_asgi.testing import bedrock as stand_ins
from bud_asgi.testing.bedrock import (
    absurd_length,
    access_denied,
    aws_error,
    bad_checksum,
    exception_as_event,
    exception_first,
    exception_mid_stream,
    model_error,
    unmodelled_error,
)


@pytest.fixture
def stage() -> Generator[Stage]:
    with staged() as one:
        yield one


FAILURES: dict[str, tuple[Reply | Callable[[Received], Reply], tuple[int, str, str]]] = {
    "throttled": (
        aws_error("ThrottlingException"),
        (429, "rate_limit_error", "Too many tokens, please wait before trying again."),
    ),
    "a quota": (
        aws_error("ServiceQuotaExceededException"),
        (
            429,
            "rate_limit_error",
            "Your request exceeds the service quota of account [account]. See [arn].",
        ),
    ),
    "busy": (
        aws_error("ServiceUnavailableException"),
        (529, "overloaded_error", "Too many connections, please wait before trying again."),
    ),
    "not ready": (
        aws_error("ModelNotReadyException"),
        (529, "overloaded_error", "Model is not ready for inference. Wait and try your request again."),
    ),
    "too long": (
        aws_error("ValidationException"),
        (400, "invalid_request_error", "prompt is too long: Input is too long for requested model."),
    ),
    "no access": (
        access_denied(),
        (403, "permission_error", "The upstream does not let the gateway use this model."),
    ),
    "no such model": (aws_error("ResourceNotFoundException"), (404, "not_found_error", f"model: {MODEL}")),
    "slow": (aws_error("ModelTimeoutException"), (504, "timeout_error", "The model did not answer in time.")),
    "failed": (aws_error("InternalServerException"), (500, "api_error", FAILED)),
    "the model's 400": (
        model_error(400, "messages.0: no"),
        (400, "invalid_request_error", "messages.0: no"),
    ),
    "the model's 500": (model_error(500, "in the model"), (500, "api_error", FAILED)),
    "an expired token": (aws_error("ExpiredTokenException"), (502, "api_error", "upstream authentication failed")),
}


@pytest.mark.parametrize("streaming", [False, True], ids=["json", "stream"])
@pytest.mark.parametrize(("fault", "told"), FAILURES.values(), ids=FAILURES.keys())
def test_an_error_of_aws(
    stage: Stage, fault: Reply | Callable[[Received], Reply], told: tuple[int, str, str], streaming: bool
) -> None:
    assert error_of(stage.post({"stream": streaming}, fault)) == told
    assert len(stage.upstream.requests) == 1


def test_the_log_has_the_details(stage: Stage, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "bud_asgi"):
        stage.post(None, access_denied())
    assert f"arn:aws:sts::{ACCOUNT}:assumed-role/stand-in/session is not authorized" in caplog.text


FIRST = {
    "internalServerException": (500, "api_error", FAILED),
    "modelStreamErrorException": (500, "api_error", FAILED),
    "validationException": (400, "invalid_request_error", "no words"),
    "throttlingException": (429, "rate_limit_error", "no words"),
    "modelTimeoutException": (504, "timeout_error", "The model did not answer in time."),
    "serviceUnavailableException": (529, "overloaded_error", "no words"),
    "somethingNewException": (500, "api_error", FAILED),
}


@pytest.mark.parametrize("name", FIRST)
def test_an_exception_in_place_of_the_first_event_is_a_status(stage: Stage, name: str) -> None:
    reply = stage.stream(exception_first(name, "no words"))
    assert error_of(reply) == FIRST[name]
    assert reply.headers["upstream-request-id"] == stage.sent.request_id
    assert stage.here.account().outcome == "answered"


@pytest.mark.parametrize("name", FIRST)
def test_an_exception_in_mid_stream_is_exactly_one_error_event(stage: Stage, name: str) -> None:
    reply = stage.stream(exception_mid_stream(name, "no words"))
    assert reply.status_code == 200
    events = events_of(reply)
    assert events[0][0] == "message_start"
    assert [name for name, _ in events].count("error") == 1
    _, kind, words = FIRST[name]
    said = {"type": "error", "error": {"type": kind, "message": words}, "request_id": reply.headers["request-id"]}
    assert events[-1] == ("error", said)
    account = stage.here.account()
    assert account.outcome == "upstream_failed"
    assert account.usage is not None


def test_an_exception_in_mid_stream_is_in_the_log(stage: Stage, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "bud_asgi"):
        reply = stage.stream(exception_mid_stream("modelStreamErrorException", "what it was"))
    words = "ModelStreamErrorException: what it was"
    assert (
        f"{reply.headers['request-id']}: bedrock ended its stream with an error: in the stream {words}" in caplog.text
    )


OTHER_ENDS: dict[str, tuple[Reply, tuple[str, str]]] = {
    "an exception as an event": (exception_as_event(), ("rate_limit_error", "Too many tokens.")),
    "an unmodelled error": (unmodelled_error(), ("api_error", FAILED)),
    "a checksum": (bad_checksum(), ("api_error", PROTOCOL)),
    "the checksum of a prelude": (bad_checksum(prelude=True), ("api_error", PROTOCOL)),
    "a length": (absurd_length(), ("api_error", PROTOCOL)),
    "cut in a message": (eof_mid_event(clean=True), ("api_error", PROTOCOL)),
    "closed in a message": (eof_mid_event(), ("api_error", CLOSED)),
    "reset in a message": (reset_mid_event(), ("api_error", CLOSED)),
    "silent in a message": (hang_mid_event(), ("timeout_error", "The upstream did not answer in time.")),
    "no message_stop": (cut_before_message_stop(clean=True), ("api_error", ENDED)),
    "no message_stop, closed": (cut_before_message_stop(), ("api_error", CLOSED)),
}


@pytest.mark.parametrize(("fault", "told"), OTHER_ENDS.values(), ids=OTHER_ENDS.keys())
def test_a_stream_that_breaks_ends_by_one_error_event_at_the_end_of_an_event(
    stage: Stage, fault: Reply, told: tuple[str, str]
) -> None:
    with impatient(stage.here, fault):
        reply = stage.stream(fault)
    assert reply.status_code == 200
    names, data = zip(*events_of(reply), strict=True)
    assert names[0] == "message_start"
    assert "content_block_delta" in names
    assert "message_stop" not in names
    assert names.count("error") == 1
    assert names[-1] == "error"
    assert (data[-1]["error"]["type"], data[-1]["error"]["message"]) == told
    assert data[-1]["request_id"] == reply.headers["request-id"]
    assert stage.here.account().outcome == "upstream_failed"


@pytest.mark.parametrize("fault", [bad_checksum(at=0), absurd_length(at=0), eof_mid_event(100, clean=True)])
def test_a_stream_that_breaks_before_its_first_event_is_a_status(stage: Stage, fault: Reply) -> None:
    assert error_of(stage.stream(fault)) == (502, "api_error", PROTOCOL)


@pytest.mark.parametrize(
    "fault",
    [
        json_body({"message": "no stream"}),
        json_body(b'event: ping\ndata: {"type": "ping"}\n\n', headers={"content-type": "text/event-stream"}),
    ],
    ids=["json", "sse"],
)
def test_a_reply_that_is_not_an_event_stream_is_not_decoded(stage: Stage, fault: Reply) -> None:
    told = error_of(stage.stream(fault))
    assert told == (502, "api_error", "The upstream's answer was not an event stream.")


def test_a_silent_upstream(stage: Stage) -> None:
    with impatient(stage.here, hang()):
        assert error_of(stage.stream(hang()))[:2] == (504, "timeout_error")


WRONG: dict[str, dict[str, Any]] = {
    "a secret": {"access_key": "", "secret_key": "not-the-one-of-this-key"},
    "a key": {"access_key": "AKIANOBODYKNOWSTHIS0", "secret_key": "s" * 40},
    "a bearer token": {"bearer_token": "bedrock-api-key-of-somebody-else"},
    "a region": {"region": "eu-west-1"},
}


@pytest.mark.parametrize("options", WRONG.values(), ids=WRONG.keys())
def test_an_aws_error_about_our_credential_is_not_forwarded(
    options: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    service = stand_ins.Bedrock()
    given = {**options, **({"access_key": service.keys.issue().access_key} if options.get("access_key") == "" else {})}
    with staged(service, **given) as stage, caplog.at_level(logging.ERROR, "bud_asgi"):
        reply = stage.post()
        assert error_of(reply) == (502, "api_error", "upstream authentication failed")
        assert reply.headers["x-should-retry"] == "false"
        assert len(stage.upstream.requests) == 1
    assert "bedrock rejected our credential" in caplog.text
    for secret in filter(None, (given.get(name) for name in ("secret_key", "bearer_token"))):
        assert secret not in caplog.text

"""Failover over real sockets: each failure at each point of a request, and what everyone has got of it."""

from __future__ import annotations

from collections.abc import Callable, Generator
from itertools import count

import pytest
from failover_stage import (
    ANTHROPIC,
    REPLY,
    UNREACHABLE,
    WHOLE,
    Stage,
    assert_whole,
    failover_stage,
    without_pings,
)
from msgspec.structs import replace
from support.gateway import gateway

from bud_asgi import Anonymous, Anthropic, Route
from bud_asgi.attempt import AttemptEnd
from bud_asgi.testing import (
    Answer,
    Reply,
    StandIn,
    cut_before_message_stop,
    empty,
    eof_before_head,
    eof_mid_event,
    error,
    error_first_event,
    error_mid_stream,
    hang,
    html,
    json_body,
    raw,
    redirect,
    reset_after_head,
    reset_before_head,
    reset_mid_event,
    short_content_length,
    sse,
)
from bud_asgi.testing.bedrock import (
    access_denied,
    aws_error,
    bad_checksum,
    exception_first,
    exception_mid_stream,
    model_error,
)
from bud_asgi.testing.google import google_error, google_html
from bud_asgi.testing.vertex import model_not_allowed, permission_denied, quota_exceeded, token_expired, unavailable

START = (
    b'event: message_start\ndata: {"type":"message_start","message":{"id":"msg_1","type":"message","role":"assistant",'
    b'"model":"m","content":[],"usage":{"input_tokens":7,"output_tokens":1}}}\n\n'
)
NEXT = {"one": "aws", "aws": "google", "google": "two"}
"""The target that follows one of each service: always another service."""
_numbers = count()


@pytest.fixture(scope="module")
def module_stage() -> Generator[Stage]:
    with failover_stage() as one:
        yield one


@pytest.fixture
def stage(module_stage: Stage) -> Generator[Stage]:
    module_stage.reset()
    yield module_stage
    module_stage.here.assert_nothing_open()


@pytest.fixture
def caller() -> str:
    return f"caller-{next(_numbers)}"


def model_reply(status: int, kind: str, **headers: str) -> Reply:
    return error(status, kind, "no words", headers={name.replace("_", "-"): value for name, value in headers.items()})


def with_code(status: int, kind: str) -> Reply:
    return error(status, kind, "no words", details={"error_code": "file_expired"})


Row = tuple[str, Callable[[], Answer], AttemptEnd]
BOTH: dict[str, Row] = {
    "reset in place of a head": ("one", reset_before_head, "unknown"),
    "closed in place of a head": ("one", eof_before_head, "unknown"),
    "reset after the head": ("one", reset_after_head, "unknown"),
    "silent": ("one", hang, "unknown"),
    "not HTTP": ("one", lambda: raw(b"SSH-2.0-OpenSSH_9.2\r\n"), "unknown"),
    "a redirect": ("one", lambda: redirect("http://127.0.0.1:9/"), "unknown"),
    "a page": ("one", html, "unknown"),
    "an empty reply": ("one", empty, "unknown"),
    "400": ("one", lambda: model_reply(400, "invalid_request_error"), "refused"),
    "401": ("one", lambda: model_reply(401, "authentication_error"), "denied"),
    "402": ("one", lambda: model_reply(402, "billing_error"), "refused"),
    "403": ("one", lambda: model_reply(403, "permission_error"), "denied"),
    "403 with a code": ("one", lambda: with_code(403, "permission_error"), "refused"),
    "404": ("one", lambda: model_reply(404, "not_found_error"), "denied"),
    "404 with a code": ("one", lambda: with_code(404, "not_found_error"), "refused"),
    "408": ("one", lambda: model_reply(408, "timeout_error"), "overloaded"),
    "409": ("one", lambda: model_reply(409, "conflict_error"), "refused"),
    "409, retry": ("one", lambda: model_reply(409, "conflict_error", x_should_retry="true"), "overloaded"),
    "413": ("one", lambda: model_reply(413, "request_too_large"), "refused"),
    "424": ("one", lambda: model_reply(424, "api_error"), "overloaded"),
    "429": ("one", lambda: model_reply(429, "rate_limit_error"), "overloaded"),
    "429, later": ("one", lambda: model_reply(429, "rate_limit_error", retry_after="30"), "overloaded"),
    "429, do not retry": ("one", lambda: model_reply(429, "rate_limit_error", x_should_retry="false"), "overloaded"),
    "500": ("one", lambda: model_reply(500, "api_error"), "overloaded"),
    "500, do not retry": ("one", lambda: model_reply(500, "api_error", x_should_retry="false"), "refused"),
    "503": ("one", lambda: model_reply(503, "api_error"), "overloaded"),
    "529": ("one", lambda: model_reply(529, "overloaded_error", retry_after="5"), "overloaded"),
    "a page, 401": ("one", lambda: html(401), "denied"),
    "a page, 403": ("one", lambda: html(403), "denied"),
    "a page, 404": ("one", lambda: html(404), "denied"),
    "a page, 413": ("one", lambda: html(413), "refused"),
    "a page, 429": ("one", lambda: html(429), "overloaded"),
    "a page, 503": ("one", lambda: html(503), "overloaded"),
    "an empty 500": ("one", lambda: empty(500), "overloaded"),
    "an empty 529": ("one", lambda: empty(529), "overloaded"),
    "aws: throttled": ("aws", lambda: aws_error("ThrottlingException"), "overloaded"),
    "aws: a quota": ("aws", lambda: aws_error("ServiceQuotaExceededException"), "overloaded"),
    "aws: busy": ("aws", lambda: aws_error("ServiceUnavailableException"), "overloaded"),
    "aws: not ready": ("aws", lambda: aws_error("ModelNotReadyException"), "overloaded"),
    "aws: failed": ("aws", lambda: aws_error("InternalServerException"), "overloaded"),
    "aws: the model is slow": ("aws", lambda: aws_error("ModelTimeoutException"), "overloaded"),
    "aws: the model fails": ("aws", lambda: model_error(500, "in the model"), "overloaded"),
    "aws: no access": ("aws", access_denied, "denied"),
    "aws: no such model": ("aws", lambda: aws_error("ResourceNotFoundException"), "denied"),
    "aws: an expired token": ("aws", lambda: aws_error("ExpiredTokenException"), "denied"),
    "aws: too long": ("aws", lambda: aws_error("ValidationException"), "refused"),
    "aws: the model refuses": ("aws", lambda: model_error(400, "messages.0: no"), "refused"),
    "aws: reset in place of a head": ("aws", reset_before_head, "unknown"),
    "aws: silent": ("aws", hang, "unknown"),
    "google: a quota": ("google", quota_exceeded, "overloaded"),
    "google: unavailable": ("google", unavailable, "overloaded"),
    "google: a page": ("google", google_html, "overloaded"),
    "google: of the model": ("google", lambda: model_reply(529, "overloaded_error"), "overloaded"),
    "google: no permission": ("google", permission_denied, "denied"),
    "google: no such model for the project": ("google", model_not_allowed, "denied"),
    "google: no such model": ("google", lambda: google_error("NOT_FOUND", "x"), "denied"),
    "google: an expired token, twice": ("google", token_expired, "denied"),
    "google: invalid": ("google", lambda: google_error("INVALID_ARGUMENT", "x"), "refused"),
    "google: reset in place of a head": ("google", reset_before_head, "unknown"),
    "google: silent": ("google", hang, "unknown"),
}
"""For JSON and streams: the upstream that fails, its reply, the end of the attempt."""
JSON: dict[str, Row] = {
    "cut in the body": ("one", short_content_length, "unknown"),
    "reset in the body": ("one", reset_mid_event, "unknown"),
    "a part of a Message": ("one", lambda: json_body(b'{"type":"message","content":['), "unknown"),
    "aws: reset in the body": ("aws", reset_mid_event, "unknown"),
    "google: reset in the body": ("google", reset_mid_event, "unknown"),
}
STREAM: dict[str, Row] = {
    "an error first": ("one", lambda: error_first_event("overloaded_error", "x"), "overloaded"),
    "a refusal first": ("one", lambda: error_first_event("invalid_request_error", "x"), "refused"),
    "a rejected credential first": ("one", lambda: error_first_event("authentication_error", "x"), "denied"),
    "an error after message_start": ("one", lambda: error_mid_stream(after_events=1), "overloaded"),
    "an error that is no object first": ("one", lambda: sse(b"event: error\ndata: overloaded\n\n"), "unknown"),
    "reset after message_start": ("one", lambda: replace(sse(START), end="reset"), "unknown"),
    "closed after message_start": ("one", lambda: replace(sse(START), end="eof"), "unknown"),
    "ended after message_start": ("one", lambda: sse(START), "unknown"),
    "silent after message_start": ("one", lambda: replace(sse(START), end="hang"), "unknown"),
    "reset in message_start": ("one", lambda: replace(sse(START), cut=20, end="reset"), "unknown"),
    "aws: an exception first": ("aws", exception_first, "overloaded"),
    "aws: an exception after message_start": ("aws", lambda: exception_mid_stream(after=1), "overloaded"),
    "aws: a damaged frame after message_start": ("aws", lambda: bad_checksum(at=1), "unknown"),
    "google: an error first": ("google", lambda: error_first_event("overloaded_error", "x"), "overloaded"),
    "google: an error after message_start": ("google", lambda: error_mid_stream(after_events=1), "overloaded"),
}
CASES = [
    pytest.param(stream, *row, id=f"{'stream' if stream else 'json'}-{name}")
    for stream, rows in ((False, BOTH | JSON), (True, BOTH | STREAM))
    for name, row in rows.items()
]


@pytest.mark.parametrize(("stream", "first", "fault", "end"), CASES)
def test_a_failure_before_the_commit(
    stage: Stage, caller: str, stream: bool, first: str, fault: Callable[[], Answer], end: AttemptEnd
) -> None:
    second = NEXT[first]
    stage.set(**{first: fault(), second: REPLY})
    reply = stage.post(caller, first, second, stream=stream)
    account = stage.account(caller)
    if end == "refused":
        assert 400 <= reply.status_code < 600
        assert account.usage is None
        assert stage.ends(caller) == [(first, end)]
        stage.assert_untouched(second)
        return
    assert_whole(reply, stream=stream)
    assert stage.ends(caller) == [(first, end), (second, "answered")]
    refreshed = len(stage.sent(first)) == 2  # Google's token, once
    assert refreshed is (end == "denied" and fault is token_expired)
    stage.assert_own_dialect(*((second,) if refreshed else (first, second)))
    assert (account.usage and account.usage.estimated, account.outcome) == (False, "answered")
    may_be_billed = account.attempts[0].usage
    begun = "after message_start" in fault_name(stream, fault)
    assert (may_be_billed is not None) is ((end == "unknown" and account.attempts[0].status != 302) or begun)
    assert may_be_billed is None or may_be_billed.estimated
    assert stage.limits.booked_now(caller) == WHOLE


def fault_name(stream: bool, fault: Callable[[], Answer]) -> str:
    rows = BOTH | (STREAM if stream else JSON)
    return next(name for name, row in rows.items() if row[1] is fault)


@pytest.mark.parametrize("stream", [False, True], ids=["json", "stream"])
@pytest.mark.parametrize("second", ["one", "aws", "google"])
@pytest.mark.parametrize("first", UNREACHABLE)
def test_a_target_that_cannot_be_reached(stage: Stage, caller: str, first: str, second: str, stream: bool) -> None:
    stage.set(**{second: REPLY})
    assert_whole(stage.post(caller, first, second, stream=stream), stream=stream)
    assert stage.ends(caller) == [(first, "not_sent"), (second, "answered")]
    stage.assert_own_dialect(second)
    attempt = stage.account(caller).attempts[0]
    assert (attempt.sent, attempt.usage, attempt.possibly_billed) == (False, None, False)
    assert stage.limits.booked_now(caller) == WHOLE


AFTER_THE_COMMIT: dict[str, tuple[str, Callable[[], Answer]]] = {
    "reset in the content": ("one", reset_mid_event),
    "closed in the content": ("one", eof_mid_event),
    "an error in the content": ("one", error_mid_stream),
    "closed after message_delta": ("one", cut_before_message_stop),
    "ended after message_delta": ("one", lambda: cut_before_message_stop(clean=True)),
    "aws: an exception in the content": ("aws", exception_mid_stream),
    "aws: a damaged frame in the content": ("aws", bad_checksum),
    "google: reset in the content": ("google", reset_mid_event),
    "google: an error in the content": ("google", error_mid_stream),
}


@pytest.mark.parametrize(("first", "fault"), AFTER_THE_COMMIT.values(), ids=AFTER_THE_COMMIT.keys())
def test_a_failure_after_the_commit_goes_to_no_other_target(
    stage: Stage, caller: str, first: str, fault: Callable[[], Answer]
) -> None:
    second = NEXT[first]
    stage.set(**{first: fault(), second: REPLY})
    events = without_pings(stage.post(caller, first, second, stream=True))
    kinds = [event["type"] for event in events]
    assert [kinds.count("message_start"), kinds.count("error"), kinds[-1]] == [1, 1, "error"]
    assert stage.ends(caller) == [(first, "broken")]
    stage.assert_untouched(second)
    account = stage.account(caller)
    assert account.outcome == "upstream_failed"
    assert account.usage is not None
    assert account.attempts[0].usage is None
    assert stage.limits.booked_now(caller).output_tokens == account.usage.output_tokens


Ends = list[AttemptEnd]
BUSY, LIMITED, REJECTED = (
    lambda: model_reply(529, "overloaded_error", retry_after="5"),
    lambda: model_reply(429, "rate_limit_error", retry_after="30"),
    lambda: model_reply(401, "authentication_error"),
)
INVALID = lambda: model_reply(400, "invalid_request_error")  # noqa: E731
THREE: dict[str, tuple[tuple[str, ...], dict[str, Callable[[], Answer]], Ends]] = {
    "two overloads": (ANTHROPIC, {"one": BUSY, "two": LIMITED}, ["overloaded", "overloaded", "answered"]),
    "lost, then overloaded": (
        ANTHROPIC,
        {"one": reset_before_head, "two": BUSY},
        ["unknown", "overloaded", "answered"],
    ),
    "overloaded, then lost": (ANTHROPIC, {"one": BUSY, "two": hang}, ["overloaded", "unknown", "answered"]),
    "rejected, then a dead one": (("one", "dead", "two"), {"one": REJECTED}, ["denied", "not_sent", "answered"]),
    "across the clouds": (
        ("aws", "google", "one"),
        {"aws": lambda: aws_error("ThrottlingException"), "google": permission_denied},
        ["overloaded", "denied", "answered"],
    ),
    "and back": (
        ("one", "google", "aws"),
        {"one": reset_after_head, "google": quota_exceeded},
        ["unknown", "overloaded", "answered"],
    ),
}


@pytest.mark.parametrize("stream", [False, True], ids=["json", "stream"])
@pytest.mark.parametrize(("targets", "faults", "ends"), THREE.values(), ids=THREE.keys())
def test_the_third_target_answers(
    stage: Stage,
    caller: str,
    targets: tuple[str, ...],
    faults: dict[str, Callable[[], Answer]],
    ends: Ends,
    stream: bool,
) -> None:
    stage.set(**{targets[2]: REPLY, **{name: fault() for name, fault in faults.items()}})
    assert_whole(stage.post(caller, *targets, stream=stream), stream=stream)
    assert stage.ends(caller) == list(zip(targets, ends, strict=True))
    stage.assert_own_dialect(*targets)
    usages = [attempt.usage is not None for attempt in stage.account(caller).attempts]
    assert usages == [end == "unknown" for end in ends]
    assert stage.limits.booked_now(caller) == WHOLE


ALL_FAIL: dict[str, tuple[tuple[str, ...], dict[str, Callable[[], Answer]], Ends, int, str | None, bool]] = {
    "the rate limit, with the soonest retry": (
        ANTHROPIC,
        {"one": LIMITED, "two": BUSY, "three": BUSY},
        ["overloaded"] * 3,
        429,
        "5",
        False,
    ),
    "what can be retried": (
        ("one", "dead", "tls"),
        {"one": BUSY},
        ["overloaded", "not_sent", "not_sent"],
        529,
        "5",
        False,
    ),
    "a verdict on the request": (ANTHROPIC, {"one": BUSY, "two": INVALID}, ["overloaded", "refused"], 400, None, False),
    "lost twice": (ANTHROPIC, {"one": reset_before_head, "two": hang}, ["unknown"] * 2, 504, None, True),
    "lost, then limited": (
        ANTHROPIC,
        {"one": reset_before_head, "two": LIMITED, "three": LIMITED},
        ["unknown", "overloaded", "overloaded"],
        429,
        "30",
        True,
    ),
    "no target can be reached": (UNREACHABLE, {}, ["not_sent"] * 3, 502, None, False),
    "a credential before nothing": (
        ("one", "two"),
        {"one": REJECTED, "two": REJECTED},
        ["denied"] * 2,
        502,
        None,
        False,
    ),
    "a fourth target is not tried": (
        ("dead", "one", "two", "three"),
        {"one": REJECTED, "two": BUSY},
        ["not_sent", "denied", "overloaded"],
        529,
        "5",
        False,
    ),
}


@pytest.mark.parametrize("stream", [False, True], ids=["json", "stream"])
@pytest.mark.parametrize(("targets", "faults", "ends", "status", "wait", "billed"), ALL_FAIL.values(), ids=ALL_FAIL)
def test_where_all_fail_the_client_gets_the_most_useful_error_and_pays_once_at_most(
    stage: Stage,
    caller: str,
    targets: tuple[str, ...],
    faults: dict[str, Callable[[], Answer]],
    ends: Ends,
    status: int,
    wait: str | None,
    billed: bool,
    stream: bool,
) -> None:
    stage.set(**{name: fault() for name, fault in faults.items()})
    reply = stage.post(caller, *targets, stream=stream)
    assert (reply.status_code, reply.headers.get("retry-after")) == (status, wait), reply.text
    assert reply.json()["type"] == "error"
    assert stage.ends(caller) == list(zip(targets, ends, strict=False))
    stage.assert_untouched(*(name for name in targets[len(ends) :] if name in stage.upstreams))
    account = stage.account(caller)
    assert (account.usage is not None) is billed
    assert sum(attempt.usage is not None for attempt in account.attempts) == max(0, ends.count("unknown") - 1)
    booked = stage.limits.booked_now(caller)
    assert (booked.requests, booked.input_tokens > 0, booked.concurrent) == (1, billed, 0)


@pytest.mark.parametrize("stream", [False, True], ids=["json", "stream"])
def test_a_route_can_refuse_another_attempt_where_the_first_may_have_been_billed(stream: bool) -> None:
    with (
        StandIn(api_key="k", strict=False).in_thread() as one,
        StandIn(api_key="k", strict=False).in_thread() as two,
    ):
        names = {"one": one, "two": two}
        providers = [Anthropic(name=name, api_key="k", base_url=target.base_url) for name, target in names.items()]
        routes = [Route("*", to=["one", "two"], failover_on_unknown=False)]
        with gateway("", auth=Anonymous(), providers=providers, routes=routes) as here:
            one.enqueue(reset_after_head())
            assert here.post({"stream": stream}).status_code == 502
            assert [attempt.end for attempt in here.account().attempts] == ["unknown"]
            one.enqueue(error(529, "overloaded_error", "no words"))
            assert here.post({"stream": stream}).status_code == 200
            assert len(two.requests) == 1

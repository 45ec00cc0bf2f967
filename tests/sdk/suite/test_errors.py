"""Errors before an answer: each status is its class, with type, code, words and request id."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import anthropic
import pytest
from anthropic import APIStatusError
from backends import BACKEND, OLDER
from cues import Cue, reply

ERRORS: dict[int, tuple[str, str | None, str, str]] = {
    400: ("invalid_request_error", "image_dimensions_too_large", "BadRequestError", "BadRequestError"),
    402: ("billing_error", "linked_organization_spend_limit_reached", "APIStatusError", "PaymentRequiredError"),
    403: ("permission_error", "user_profile_not_billable", "PermissionDeniedError", "PermissionDeniedError"),
    404: ("not_found_error", "thread_not_found", "NotFoundError", "NotFoundError"),
    409: ("conflict_error", "skill_read_blocked_undecryptable", "ConflictError", "ConflictError"),
    413: ("request_too_large", "request_body_too_large_after_decoding", "RequestTooLargeError", "ContentTooLargeError"),
    422: ("invalid_request_error", None, "UnprocessableEntityError", "UnprocessableEntityError"),
    429: ("rate_limit_error", "enforced_spend_limit_reached", "RateLimitError", "RateLimitError"),
    500: ("api_error", None, "InternalServerError", "InternalServerError"),
    503: ("api_error", "cmek_key_unreachable", "InternalServerError", "ServiceUnavailableError"),
    504: ("timeout_error", None, "InternalServerError", "GatewayTimeoutError"),
    529: ("overloaded_error", "compaction_unavailable", "OverloadedError", "OverloadedError"),
}
"""By status: type, code, and the classes of the older and the newer SDK."""


def failing(status: int) -> Cue:
    kind, code, *_ = ERRORS[status]
    return Cue(reply("error", status, kind, "as the service says it", details={"error_code": code} if code else None))


def check(error: APIStatusError, status: int, cue: Cue) -> None:
    """It is the upstream's error, whole, or what becomes of it where it is in no envelope."""
    kind, code, *_ = ERRORS[status]
    status, kind, words = BACKEND.errors.get(status, (status, kind, "as the service says it"))
    code = code if BACKEND.envelopes else None
    *_, older, newer = ERRORS[status]
    assert (older if OLDER else newer) in [cls.__name__ for cls in type(error).__mro__[:2]]  # newer: one of the code's
    assert (error.status_code, error.type) == (status, kind)
    upstream_id = cue.seen()["upstream"][0]["id"]
    detail: dict[str, Any] = {"type": kind, "message": words}
    detail |= {"details": {"error_code": code}} if code else {}
    assert error.body == {
        "type": "error",
        "error": detail,
        "request_id": upstream_id if BACKEND.envelopes else error.request_id,
    }
    assert error.response.headers["upstream-request-id"] == upstream_id
    assert error.request_id == error.response.headers["request-id"]
    assert str(error.request_id).startswith("req_")
    assert getattr(error, "error_code", code) == code


@pytest.mark.parametrize("status", ERRORS)
def test_each_status(client: anthropic.Anthropic, status: int) -> None:
    cue = failing(status)
    with pytest.raises(APIStatusError) as raised:
        client.messages.create(**cue.ask())
    check(raised.value, status, cue)


@pytest.mark.parametrize("status", ERRORS)
async def test_each_status_async_for_a_stream(async_client: anthropic.AsyncAnthropic, status: int) -> None:
    cue = failing(status)
    with pytest.raises(APIStatusError) as raised:
        async with async_client.messages.stream(**cue.ask()):
            pytest.fail("it began")
    check(raised.value, status, cue)


@pytest.mark.parametrize("status", [400, 429, 529])
def test_for_a_count_and_in_the_beta_namespace(client: anthropic.Anthropic, status: int) -> None:
    for call in (client.messages.count_tokens, client.beta.messages.count_tokens):
        cue = failing(status)
        with pytest.raises(APIStatusError) as raised:
            call(**cue.ask_for_a_count())
        check(raised.value, status, cue)
    cue = failing(status)
    with pytest.raises(APIStatusError) as raised:
        client.beta.messages.create(**cue.ask())
    check(raised.value, status, cue)


def own(error: APIStatusError, status: int, kind: str, words: str) -> None:
    """It is the gateway's, in the envelope, with one request id, and not to be tried again."""
    assert (error.status_code, error.type) == (status, kind)
    body: Any = error.body
    assert words in body["error"]["message"]
    assert body["request_id"] == error.request_id == error.response.headers["request-id"]
    assert "upstream-request-id" not in error.response.headers
    assert error.response.headers["x-should-retry"] == "false"


def test_an_unknown_model(client: anthropic.Anthropic) -> None:
    with pytest.raises(anthropic.NotFoundError) as raised:
        client.messages.create(**Cue().ask(model="gpt-9"))
    own(raised.value, 404, "not_found_error", "model: gpt-9")


def test_a_model_that_the_key_may_not_use(client: anthropic.Anthropic) -> None:
    narrow = client.with_options(api_key=os.environ["SUITE_NARROW_KEY"])
    narrow.messages.create(**Cue().ask())
    with pytest.raises(anthropic.PermissionDeniedError) as raised:
        narrow.messages.create(**Cue().ask(model=BACKEND.adaptive_model))
    own(raised.value, 403, "permission_error", BACKEND.adaptive_model)


def test_a_body_past_the_limit(client: anthropic.Anthropic) -> None:
    with pytest.raises(APIStatusError) as raised:
        client.messages.create(**Cue().ask(system="a" * (3 << 20)))
    assert type(raised.value).__name__ == ERRORS[413][2 if OLDER else 3]
    own(raised.value, 413, "request_too_large", "")


async def test_a_body_past_the_limit_async(async_client: anthropic.AsyncAnthropic) -> None:
    with pytest.raises(APIStatusError) as raised:
        await async_client.messages.create(stream=True, **Cue().ask(system="a" * (3 << 20)))
    own(raised.value, 413, "request_too_large", "")


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"max_tokens": "many"}, "max_tokens: Input should be a valid integer"),
        ({"messages": []}, "messages: at least one message is required"),
        ({"stream": "yes"}, "stream: Input should be a valid boolean"),
        ({"model": 5}, "model: Input should be a valid string"),
    ],
    ids=str,
)
def test_a_body_that_is_none(client: anthropic.Anthropic, fields: dict[str, Any], words: str) -> None:
    with pytest.raises(anthropic.BadRequestError) as raised:
        client.messages.create(**Cue().ask(extra_body=fields))
    own(raised.value, 400, "invalid_request_error", words)


def test_what_only_the_upstream_judges(client: anthropic.Anthropic) -> None:
    with pytest.raises(anthropic.BadRequestError) as raised:
        client.messages.create(**Cue().ask(messages=[{"role": "bot", "content": "Hi."}]))
    body: Any = raised.value.body
    assert body["error"]["message"] == "messages.1.role: Input should be 'user', 'assistant' or 'system'"
    headers = raised.value.response.headers
    assert body["request_id"] == headers["upstream-request-id" if BACKEND.envelopes else "request-id"]
    assert "upstream-request-id" in headers


@pytest.mark.parametrize("status", [401, 403])
def test_the_upstream_refuses_the_gateway(client: anthropic.Anthropic, status: int) -> None:
    refusal = reply("error", status, "authentication_error", "invalid x-api-key")
    cue = Cue(refusal, refusal)  # a credential that can be had anew is tried once more
    with pytest.raises(anthropic.InternalServerError) as raised:
        client.messages.create(**cue.ask())
    assert (raised.value.status_code, raised.value.type) == (502, "api_error")
    assert "x-api-key" not in str(raised.value)


BREAKS: dict[str, dict[str, Any]] = {
    "a page": reply("html"),
    "a page with a status": reply("html", 503),
    "nothing": reply("empty"),
    "a redirect": reply("redirect", "http://127.0.0.1:1/"),
    "a reset": reply("reset_before_head"),
    "an end": reply("eof_before_head"),
}
KEPT = {"a page with a status": 503}


@pytest.mark.parametrize("how", BREAKS)
def test_an_upstream_that_breaks(client: anthropic.Anthropic, how: str) -> None:
    with pytest.raises(anthropic.InternalServerError) as raised:
        client.messages.create(**Cue(BREAKS[how], BREAKS[how]).ask())  # it may ask again where a connection was stale
    assert (raised.value.status_code, raised.value.type) == (KEPT.get(how, 502), "api_error")
    body: Any = raised.value.body
    assert body["request_id"] == raised.value.request_id


@pytest.mark.parametrize("how", BREAKS)
async def test_an_upstream_that_breaks_a_stream(async_client: anthropic.AsyncAnthropic, how: str) -> None:
    with pytest.raises(anthropic.InternalServerError) as raised:
        async with async_client.messages.stream(**Cue(BREAKS[how], BREAKS[how]).ask()):
            pytest.fail("it began")
    assert (raised.value.status_code, raised.value.type) == (KEPT.get(how, 502), "api_error")


NOT_SERVED: dict[str, Callable[[anthropic.Anthropic], object]] = {
    "batches": lambda client: client.messages.batches.list(),
    "a batch": lambda client: client.messages.batches.retrieve("msgbatch_1"),
    "files": lambda client: client.beta.files.list(),
    "completions": lambda client: client.post("/v1/complete", body={}, cast_to=object),
}


@pytest.mark.parametrize("what", NOT_SERVED)
def test_what_is_not_served(client: anthropic.Anthropic, what: str) -> None:
    with pytest.raises(anthropic.NotFoundError) as raised:
        NOT_SERVED[what](client)
    own(raised.value, 404, "not_found_error", "")

"""What the SDK makes of a failure: by status, by `x-should-retry`, and after how long."""

from __future__ import annotations

import time
from typing import Any

import anthropic
import pytest
from anthropic import APIStatusError
from cues import Cue, reply, said

SOON = {"retry-after-ms": "1"}
BACKOFF = 0.3
"""Seconds: less than the SDK waits unless it is told."""


def failure(status: int, kind: str = "api_error", **headers: str) -> dict[str, Any]:
    given = {name.replace("_", "-"): value for name, value in headers.items()}
    return reply("error", status, kind, "Not now", headers=given or SOON)


@pytest.mark.parametrize("status", [408, 409, 429, 500, 502, 503, 504, 529])
def test_retried(client: anthropic.Anthropic, status: int) -> None:
    cue = Cue(failure(status), failure(status), reply("text", "At last."))
    message = client.with_options(max_retries=2).messages.create(**cue.ask(extra_headers=cue.headers))
    assert said(message) == [("text", "At last.")]
    seen = cue.seen()
    assert len(seen["upstream"]) == 3
    assert [head["headers"]["x-stainless-retry-count"] for head in seen["client"]] == ["0", "1", "2"]


@pytest.mark.parametrize("status", [400, 402, 404, 413, 422])
def test_not_retried(client: anthropic.Anthropic, status: int) -> None:
    cue = Cue(failure(status, "invalid_request_error"))
    with pytest.raises(APIStatusError):
        client.with_options(max_retries=2).messages.create(**cue.ask())
    assert cue.asked() == 1


async def test_retried_async_for_a_stream(async_client: anthropic.AsyncAnthropic) -> None:
    cue = Cue(failure(529), reply("text", "At last."))
    async with async_client.with_options(max_retries=1).messages.stream(**cue.ask()) as stream:
        assert await stream.get_final_text() == "At last."
    assert cue.asked() == 2


def test_only_so_often(client: anthropic.Anthropic) -> None:
    cue = Cue(*[failure(529, "overloaded_error")] * 5)
    with pytest.raises(APIStatusError):
        client.with_options(max_retries=3).messages.create(**cue.ask())
    assert cue.asked() == 4


def test_the_upstreams_retry_headers(client: anthropic.Anthropic) -> None:
    retrying = client.with_options(max_retries=2)
    yes = Cue(failure(400, "invalid_request_error", x_should_retry="true", **SOON), reply("text", "At last."))
    assert said(retrying.messages.create(**yes.ask())) == [("text", "At last.")]
    no = Cue(failure(529, "overloaded_error", x_should_retry="false", **SOON))
    with pytest.raises(APIStatusError) as raised:
        retrying.messages.create(**no.ask())
    assert raised.value.response.headers["x-should-retry"] == "false"
    assert no.asked() == 1


@pytest.mark.parametrize(
    "headers", [{"retry_after_ms": "1"}, {"retry_after": "0.001"}], ids=lambda one: next(iter(one))
)
def test_it_waits_as_long_as_the_header_requires(client: anthropic.Anthropic, headers: dict[str, str]) -> None:
    cue = Cue(failure(429, "rate_limit_error", **headers), reply("text", "At last."))
    began = time.monotonic()
    client.with_options(max_retries=1).messages.create(**cue.ask())
    assert time.monotonic() - began < BACKOFF


def test_milliseconds_take_precedence_and_both_are_sent(client: anthropic.Anthropic) -> None:
    cue = Cue(failure(429, "rate_limit_error", retry_after="4", retry_after_ms="200"), reply("text", "At last."))
    began = time.monotonic()
    client.with_options(max_retries=1).messages.create(**cue.ask())
    assert 0.2 <= time.monotonic() - began < 3
    with pytest.raises(anthropic.RateLimitError) as raised:
        client.messages.create(**Cue(failure(429, retry_after="4", retry_after_ms="200")).ask())
    headers = raised.value.response.headers
    assert (headers["retry-after"], headers["retry-after-ms"]) == ("4", "200")


@pytest.mark.usefixtures("impatient")
def test_a_lost_connection_upstream_is_retried(client: anthropic.Anthropic) -> None:
    cue = Cue(reply("reset_before_head"), reply("reset_before_head"), reply("text", "At last."))
    message = client.with_options(max_retries=2).messages.create(**cue.ask())
    assert said(message) == [("text", "At last.")]
    assert cue.asked() == 3  # one of them may be the gateway's, where the connection was stale


def test_counts_and_models_are_retried_too(client: anthropic.Anthropic) -> None:
    cue = Cue(failure(529), failure(529))
    given = cue.ask()
    del given["max_tokens"]
    assert client.with_options(max_retries=2).messages.count_tokens(**given).input_tokens > 0
    assert cue.asked() == 3

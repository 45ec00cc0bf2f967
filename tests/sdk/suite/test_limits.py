"""A limit of the gateway's: the SDK waits for what is soon, and does not try again where that takes too long."""

from __future__ import annotations

import os
import time

import anthropic
import pytest
from cues import Cue


def limited(name: str) -> anthropic.Anthropic:
    url = f"{os.environ['SUITE_LIMITED_URL']}/{name}"
    return anthropic.Anthropic(base_url=url, api_key=os.environ["SUITE_KEY"], max_retries=2, timeout=20)


def test_a_limit_that_has_room_in_two_seconds_is_waited_for() -> None:
    cue = Cue()
    with limited("short") as client:
        client.messages.create(**cue.ask(extra_headers=cue.headers))
        began = time.monotonic()
        client.messages.create(**cue.ask(extra_headers=cue.headers))
        assert 1.9 <= time.monotonic() - began < 4.0
    seen = cue.seen()
    assert [head["headers"]["x-stainless-retry-count"] for head in seen["client"]] == ["0", "0", "1"]
    assert len(seen["upstream"]) == 2


def test_a_limit_that_has_no_room_for_an_hour_is_reported_after_one_attempt() -> None:
    cue = Cue()
    with limited("long") as client:
        client.messages.create(**cue.ask(extra_headers=cue.headers))
        with pytest.raises(anthropic.RateLimitError, match="your rate limit of 1 request per hour") as raised:
            client.messages.create(**cue.ask(extra_headers=cue.headers))
    headers = raised.value.response.headers
    assert (headers["x-should-retry"], headers["anthropic-ratelimit-requests-remaining"]) == ("false", "0")
    assert 3590 <= int(headers["retry-after"]) <= 3600
    assert (len(cue.seen()["client"]), len(cue.seen()["upstream"])) == (2, 1)

"""Who may call: `api_key`, `auth_token`, both; and addresses with and without a slash at their end."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import anthropic
import pytest
from backends import OLDER
from cues import Cue, said

URL, KEY = os.environ["SUITE_URL"], os.environ["SUITE_KEY"]


def call(**options: Any) -> dict[str, str]:
    """The headers of a call that went well."""
    cue = Cue()
    given: dict[str, Any] = {"base_url": URL, "max_retries": 0, **options}
    with anthropic.Anthropic(**given) as client:
        assert said(client.messages.create(**cue.ask(extra_headers=cue.headers)))
    return cue.seen()["client"][0]["headers"]


def test_an_api_key() -> None:
    headers = call(api_key=KEY)
    if OLDER:
        assert (headers["x-api-key"], "authorization" in headers) == (KEY, False)
    else:
        assert (headers["authorization"], "x-api-key" in headers) == (f"Bearer {KEY}", False)


def test_an_auth_token() -> None:
    assert call(auth_token=KEY)["authorization"] == f"Bearer {KEY}"


def test_a_key_and_a_token() -> None:
    call(api_key=KEY, default_headers={"Authorization": f"Bearer {KEY}", "X-Api-Key": KEY})


async def test_async() -> None:
    async with anthropic.AsyncAnthropic(base_url=URL, auth_token=KEY, max_retries=0) as client:
        assert said(await client.messages.create(**Cue().ask()))


def test_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ANTHROPIC_API_KEY", KEY)
    monkeypatch.setenv("ANTHROPIC_BASE_URL", URL)
    with anthropic.Anthropic(max_retries=0) as client:
        assert said(client.messages.create(**Cue().ask()))


def test_an_address_with_a_slash() -> None:
    call(api_key=KEY, base_url=f"{URL}/")


CALLS: dict[str, Callable[[anthropic.Anthropic, Cue], object]] = {
    "message": lambda client, cue: client.messages.create(stream=False, **cue.ask()),
    "stream": lambda client, cue: client.messages.create(stream=True, **cue.ask()),
    "count": lambda client, cue: client.messages.count_tokens(**cue.ask_for_a_count()),
    "models": lambda client, _: client.models.list().data,
}


@pytest.mark.parametrize("given", [{"api_key": "sk-wrong"}, {"auth_token": "sk-wrong"}], ids=str)
@pytest.mark.parametrize("what", CALLS)
def test_a_wrong_credential(given: dict[str, str], what: str) -> None:
    cue = Cue()
    options: dict[str, Any] = {"base_url": URL, "max_retries": 2, "default_headers": cue.headers, **given}
    with anthropic.Anthropic(**options) as client, pytest.raises(anthropic.AuthenticationError) as raised:
        CALLS[what](client, cue)
    error: Any = raised.value
    assert (error.type, error.body["type"]) == ("authentication_error", "error")
    assert error.body["request_id"] == error.request_id == error.response.headers["request-id"]
    assert error.response.headers["x-should-retry"] == "false"
    assert "sk-wrong" not in str(error)
    seen = cue.seen()
    assert (len(seen["client"]), seen["upstream"]) == (1, [])

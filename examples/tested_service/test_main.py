"""The service under test: its routes, its limits, its upstreams and what happens when they fail."""

import asyncio
from collections.abc import Callable

import anthropic
import main
import pytest
from anthropic import AsyncAnthropic
from fastapi.testclient import TestClient

from bud_asgi import Principal
from bud_asgi.testing import ThreadedStandIn, error, hang, text

pytestmark = pytest.mark.usefixtures("bud_watchdog")

QUESTION = {"model": "claude-haiku-4-5", "max_tokens": 100, "messages": [{"role": "user", "content": "Hello"}]}
VERSION = {"anthropic-version": "2023-06-01"}


def test_a_summary_is_the_text_of_the_answer(bud_upstream: ThreadedStandIn) -> None:
    bud_upstream.enqueue(text("Short."))
    with TestClient(main.app) as client:
        assert client.get("/summary", params={"text": "long"}).json() == {"summary": "Short."}
    assert bud_upstream.requests[0].json()["messages"][0]["content"] == "Summarise: long"


def test_only_users_with_a_session_are_served(bud_upstream: ThreadedStandIn) -> None:
    with TestClient(main.app) as client:
        for session, status in (("session-of-ada", 200), ("session-of-eve", 401)):
            headers = {**VERSION, "authorization": f"Bearer {session}"}
            assert client.post("/llm/v1/messages", json=QUESTION, headers=headers).status_code == status
    assert len(bud_upstream.requests) == 1


def test_the_second_provider_answers_when_the_first_is_overloaded(
    bud_upstream: ThreadedStandIn, bud_client: Callable[[str], anthropic.Anthropic]
) -> None:
    bud_upstream.enqueue(error(529, "overloaded_error", "Overloaded"), text("From Bedrock."))
    with bud_client("ada").messages.stream(
        model="claude-haiku-4-5", max_tokens=100, messages=[{"role": "user", "content": "Hello"}]
    ) as stream:
        assert stream.get_final_text() == "From Bedrock."


def test_users_are_limited_and_may_not_use_every_model(
    bud_client: Callable[[str | Principal], anthropic.Anthropic],
) -> None:
    client = bud_client(Principal(id="ada", models=("claude-haiku-*",)))
    for model, expected in (
        ("claude-opus-5", anthropic.PermissionDeniedError),
        ("claude-haiku-4-5", None),
        ("claude-haiku-4-5", None),
        ("claude-haiku-4-5", anthropic.RateLimitError),
    ):
        if expected is None:
            client.messages.create(model=model, max_tokens=100, messages=[{"role": "user", "content": "Hello"}])
            continue
        with pytest.raises(expected):
            client.messages.create(model=model, max_tokens=100, messages=[{"role": "user", "content": "Hello"}])


async def test_a_call_that_is_cancelled_ends_at_the_upstream(
    bud_upstream: ThreadedStandIn, bud_async_client: Callable[[str], AsyncAnthropic]
) -> None:
    bud_upstream.enqueue(hang())
    async with bud_async_client("ada") as client:
        call = asyncio.create_task(
            client.messages.create(
                model="claude-haiku-4-5", max_tokens=100, messages=[{"role": "user", "content": "Hello"}]
            )
        )
        await asyncio.to_thread(bud_upstream.wait_requests, 1)
        call.cancel()
        await asyncio.to_thread(bud_upstream.wait_aborted)

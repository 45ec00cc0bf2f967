"""The client's own timeouts, and what the gateway does when the client gives up."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

import anthropic
import pytest
from cues import Cue, reply, said


def test_an_answer_that_takes_too_long(client: anthropic.Anthropic) -> None:
    began = time.monotonic()
    with pytest.raises(anthropic.APITimeoutError):
        client.messages.create(timeout=0.15, **Cue(reply("late", 2.0)).ask())
    assert time.monotonic() - began < 1.0


async def test_an_answer_that_takes_too_long_async(async_client: anthropic.AsyncAnthropic) -> None:
    with pytest.raises(anthropic.APITimeoutError):
        await async_client.messages.create(timeout=0.15, **Cue(reply("late", 2.0)).ask())


@pytest.mark.usefixtures("impatient")
def test_the_next_try_may_be_quicker(client: anthropic.Anthropic) -> None:
    cue = Cue(reply("late", 2.0), reply("text", "At last."))
    message = client.with_options(timeout=0.15, max_retries=1).messages.create(**cue.ask())
    assert said(message) == [("text", "At last.")]
    assert cue.asked() == 2


def test_a_stream_that_falls_silent(client: anthropic.Anthropic) -> None:
    cue = Cue(reply("stall", 2.0, after_bytes=900))
    with pytest.raises(Exception, match=r"(?i)timed? ?out") as raised:  # noqa: SIM117 - not before it began
        with client.messages.stream(timeout=0.2, **cue.ask()) as stream:
            stream.get_final_message()
    assert type(raised.value).__name__ in ("ReadTimeout", "APITimeoutError")


async def until(true: Callable[[], bool]) -> None:
    for _ in range(500):
        if true():
            return
        await asyncio.sleep(0.02)
    pytest.fail("not within ten seconds")


@pytest.mark.parametrize("streamed", [False, True])
async def test_a_call_that_is_given_up(async_client: anthropic.AsyncAnthropic, streamed: bool) -> None:
    """The upstream hears of it at once."""
    cue = Cue(reply("hang_mid_event", 900) if streamed else reply("hang"))

    async def call() -> None:
        async with async_client.messages.stream(**cue.ask()) as stream:
            await stream.get_final_message()

    task = asyncio.create_task(call() if streamed else async_client.messages.create(**cue.ask()))
    await until(lambda: cue.asked() == 1)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await until(lambda: cue.seen()["upstream"][0]["aborted"])


def test_the_timeout_is_sent(client: anthropic.Anthropic) -> None:
    cue = Cue()
    client.messages.create(timeout=7, **cue.ask(extra_headers=cue.headers))
    assert cue.seen()["client"][0]["headers"]["x-stainless-read-timeout"] == "7"

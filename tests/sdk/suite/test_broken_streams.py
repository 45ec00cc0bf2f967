"""Streams that fail: before the first event as a status, after it as an error that is raised and never retried."""

from __future__ import annotations

from typing import Any

import anthropic
import pytest
from anthropic import APIStatusError
from backends import BACKEND
from cues import Cue, reply

CUTS: dict[str, Any] = {
    "without message_stop": reply("cut_before_message_stop"),
    "without message_stop, cleanly": reply("cut_before_message_stop", clean=True),
    "in an event": reply("eof_mid_event"),
    "in an event, cleanly": reply("eof_mid_event", clean=True),
    "by a reset": reply("reset_mid_event"),
    "between the first events": reply("eof_mid_event", BACKEND.first_event),
}


STATUS = {"api_error": 500, "overloaded_error": 529, "timeout_error": 504}


def retrying(client: anthropic.Anthropic) -> anthropic.Anthropic:
    return client.with_options(max_retries=2)


@pytest.mark.parametrize(
    ("kind", "status"),
    [("overloaded_error", 529), ("api_error", 500), ("rate_limit_error", 429), ("invalid_request_error", 400)],
)
def test_an_error_as_the_first_event_is_a_status(client: anthropic.Anthropic, kind: str, status: int) -> None:
    cue = Cue(reply("error_first_event", kind, "as the service says it", {"error_code": "a_code"}))
    with pytest.raises(APIStatusError) as raised, client.messages.stream(**cue.ask()):
        pytest.fail("it began")
    assert (raised.value.status_code, raised.value.type) == (status, kind)
    body: Any = raised.value.body
    assert body["error"].get("details") == ({"error_code": "a_code"} if BACKEND.envelopes else None)


@pytest.mark.usefixtures("impatient")
def test_an_error_as_the_first_event_is_retried(client: anthropic.Anthropic) -> None:
    cue = Cue(reply("error_first_event", "overloaded_error", "Overloaded"), reply("text", "At last."))
    with retrying(client).messages.stream(**cue.ask()) as stream:
        assert stream.get_final_text() == "At last."
    assert cue.asked() == 2


def check_event(error: APIStatusError, cue: Cue, kind: str, words: str) -> None:
    """It came as an event, was raised as it says, and the request was not made again."""
    assert type(error) is APIStatusError
    assert (error.status_code, error.type) == (200, kind)
    body: Any = error.body
    assert (body["type"], body["error"]["type"]) == ("error", kind)
    told = BACKEND.errors.get(STATUS[kind])
    assert (told[2] if told and words else words) in body["error"]["message"]
    assert error.request_id == error.response.headers["request-id"]
    assert cue.asked() == 1


def test_an_error_after_some_events(client: anthropic.Anthropic) -> None:
    cue = Cue(reply("error_mid_stream", "overloaded_error", "Overloaded", after_events=6, text="one two three four"))
    pieces: list[str] = []
    with pytest.raises(APIStatusError) as raised, retrying(client).messages.stream(**cue.ask()) as stream:
        pieces.extend(stream.text_stream)
    check_event(raised.value, cue, "overloaded_error", "Overloaded")
    assert "".join(pieces).startswith("one")
    body: Any = raised.value.body
    assert body["request_id"] == (cue.seen()["upstream"][0]["id"] if BACKEND.envelopes else raised.value.request_id)


def test_an_error_after_some_raw_events(client: anthropic.Anthropic) -> None:
    cue = Cue(reply("error_mid_stream", "api_error", "Internal server error", after_events=3))
    types: list[str] = []
    with retrying(client).messages.create(stream=True, **cue.ask()) as stream, pytest.raises(APIStatusError) as raised:
        types.extend(event.type for event in stream)
    check_event(raised.value, cue, "api_error", "Internal server error")
    assert types[0] == "message_start"


async def test_an_error_after_some_events_async(async_client: anthropic.AsyncAnthropic) -> None:
    cue = Cue(reply("error_mid_stream", "timeout_error", "Took too long", after_events=5))
    with pytest.raises(APIStatusError) as raised:
        async with async_client.with_options(max_retries=2).messages.stream(**cue.ask()) as stream:
            await stream.get_final_message()
    check_event(raised.value, cue, "timeout_error", "Took too long")


@pytest.fixture(params=CUTS)
def cut(request: pytest.FixtureRequest) -> Cue:
    return Cue(CUTS[request.param])


def check_cut(error: APIStatusError, cue: Cue) -> None:
    """It is raised. Where half an event had gone out, SSE has the SDK read the error as that event's next line."""
    if isinstance(error.body, str):
        assert '"type":"api_error"' in error.body
        assert (error.status_code, error.request_id) == (200, error.response.headers["request-id"])
        assert cue.asked() == 1
    else:
        check_event(error, cue, "api_error", "")


def test_a_cut_stream(client: anthropic.Anthropic, cut: Cue) -> None:
    with pytest.raises(APIStatusError) as raised, retrying(client).messages.stream(**cut.ask()) as stream:
        stream.get_final_message()
    check_cut(raised.value, cut)


def test_a_cut_raw_stream(client: anthropic.Anthropic, cut: Cue) -> None:
    events: list[Any] = []
    with retrying(client).messages.create(stream=True, **cut.ask()) as stream, pytest.raises(APIStatusError) as raised:
        events.extend(stream)
    check_cut(raised.value, cut)
    assert "message_stop" not in [event.type for event in events]


async def test_a_cut_stream_async(async_client: anthropic.AsyncAnthropic, cut: Cue) -> None:
    with pytest.raises(APIStatusError) as raised:
        async with async_client.messages.stream(**cut.ask()) as stream:
            await stream.get_final_message()
    check_cut(raised.value, cut)

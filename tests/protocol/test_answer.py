"""What a message reports of itself: read from a body, and from two events of a stream."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.counts import examples
from support.streams import STOP, delta, event, start, text

from bud_asgi.attempt import Attempt, Target
from bud_asgi.protocol.answer import Answer, answer_of_message, answer_of_stream
from bud_asgi.protocol.sse import MAX_NOTED, EventStream

MESSAGE = {"id": "msg_1", "model": "m", "role": "assistant", "stop_reason": "end_turn", "content": [{"id": "no"}]}


@pytest.mark.parametrize(
    ("body", "answer"),
    [
        (MESSAGE, Answer("msg_1", "m", "end_turn")),
        ({**MESSAGE, "stop_reason": None}, Answer("msg_1", "m", None)),
        ({"content": []}, Answer()),
        ({**MESSAGE, "model": 7}, Answer()),
        ([MESSAGE], Answer()),
    ],
)
def test_a_body(body: Any, answer: Answer) -> None:
    assert answer_of_message(json.dumps(body).encode()) == answer


@given(st.binary(max_size=50), st.binary(max_size=50))
@examples(50)
def test_nothing_that_an_upstream_sends_raises(one: bytes, other: bytes) -> None:
    assert answer_of_message(one) == Answer()
    assert answer_of_stream(one, other) == Answer()


def test_a_stream_keeps_the_two_events_that_it_is_read_from() -> None:
    stream = EventStream()
    for chunk in (start(input_tokens=1), text("hello"), delta(output_tokens=2), STOP):
        stream.feed(chunk)
    assert answer_of_stream(stream.start, stream.delta) == Answer("msg_1", "m", "end_turn")


def test_a_stream_that_broke_off_has_what_has_arrived() -> None:
    stream = EventStream()
    assert answer_of_stream(stream.start, stream.delta) == Answer()
    stream.feed(start(input_tokens=1))
    assert answer_of_stream(stream.start, stream.delta) == Answer("msg_1", "m", None)


def test_a_very_long_event_is_not_kept() -> None:
    stream = EventStream()
    stream.feed(event("message_start", message={**MESSAGE, "more": "x" * MAX_NOTED}))
    stream.feed(event("message_delta", delta={"stop_reason": "x" * MAX_NOTED}))
    assert (stream.start, stream.delta) == (b"", b"")


def test_an_attempt_without_a_reply_has_no_answer() -> None:
    assert Attempt(Target("one")).answer == Answer()


def test_the_repr_of_an_attempt_has_no_content() -> None:
    attempt = Attempt(Target("one"), reply=(json.dumps(MESSAGE).encode(),), failure="at internal.example")
    assert attempt.answer.id == "msg_1"
    assert "msg_1" not in repr(attempt)
    assert "internal" not in repr(attempt)

"""What a message reports of itself (vendor pages "Messages" and "Streaming Messages")."""

from __future__ import annotations

import msgspec

from bud_asgi.protocol.malformed import MALFORMED_JSON


class Answer(msgspec.Struct, frozen=True):
    """The id of a message, the model that generated it, and why it stopped: any text; `None` where absent."""

    id: str | None = None
    model: str | None = None
    stop_reason: str | None = None


class _Start(msgspec.Struct, frozen=True):
    """A `message_start` event."""

    message: Answer = Answer()


class _Delta(msgspec.Struct, frozen=True):
    """A `message_delta` event."""

    delta: Answer = Answer()


_NOTHING = Answer()
_decode_message = msgspec.json.Decoder(Answer).decode
_decode_start = msgspec.json.Decoder(_Start).decode
_decode_delta = msgspec.json.Decoder(_Delta).decode


def answer_of_message(body: bytes) -> Answer:
    """Read it from the body of a Message."""
    if not body:
        return _NOTHING
    try:
        return _decode_message(body)
    except MALFORMED_JSON:
        return _NOTHING


def answer_of_stream(start: bytes, delta: bytes) -> Answer:
    """Read it from the data of a `message_start` and of the last `message_delta`; both may be empty."""
    message, stop_reason = _NOTHING, None
    try:
        if start:
            message = _decode_start(start).message
        if delta:
            stop_reason = _decode_delta(delta).delta.stop_reason
    except MALFORMED_JSON:
        return message
    return Answer(message.id, message.model, stop_reason)

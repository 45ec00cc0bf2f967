"""Token usage: read from a whole message, or merged over the events of a stream (vendor page "Streaming Messages")."""

from __future__ import annotations

import msgspec


class Usage(msgspec.Struct, frozen=True):
    """Tokens of one message. `None` is "not told", `0` is a number.

    `input_tokens` are those neither read from a cache nor written to one; `output_tokens` include thinking.
    """

    input_tokens: int | None = None
    output_tokens: int | None = None
    cache_creation_input_tokens: int | None = None
    cache_read_input_tokens: int | None = None

    def updated(self, later: Usage) -> Usage:
        """What holds after a later report: counts are cumulative, so each one that is told replaces the earlier."""
        return Usage(
            self.input_tokens if later.input_tokens is None else later.input_tokens,
            self.output_tokens if later.output_tokens is None else later.output_tokens,
            self.cache_creation_input_tokens
            if later.cache_creation_input_tokens is None
            else later.cache_creation_input_tokens,
            self.cache_read_input_tokens if later.cache_read_input_tokens is None else later.cache_read_input_tokens,
        )


class _Reported(msgspec.Struct, frozen=True):
    """A message, or a `message_delta` event: both carry `usage` at their top."""

    usage: Usage | None = None


class _Started(msgspec.Struct, frozen=True):
    """A `message_start` event."""

    message: _Reported


_decode_reported = msgspec.json.Decoder(_Reported).decode
_decode_started = msgspec.json.Decoder(_Started).decode


def usage_of_message(body: bytes) -> Usage | None:
    """The usage in the body of a Message or in the data of a `message_delta` event; `None` if it can't be read."""
    try:
        return _decode_reported(body).usage
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None


def usage_of_start(data: bytes) -> Usage | None:
    """The usage in the data of a `message_start` event; `None` if it can't be read."""
    try:
        return _decode_started(data).message.usage
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None

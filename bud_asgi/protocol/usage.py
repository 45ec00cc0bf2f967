"""Token usage: read from a whole message, or merged over the events of a stream (vendor page "Streaming Messages")."""

from __future__ import annotations

import msgspec

_MALFORMED = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)


class CacheCreation(msgspec.Struct, frozen=True):
    """What was written to a cache, by how long it is kept."""

    ephemeral_5m_input_tokens: int | None = None
    ephemeral_1h_input_tokens: int | None = None


class OutputTokensDetails(msgspec.Struct, frozen=True):
    """A part of the output tokens, contained in their number."""

    thinking_tokens: int | None = None


class ServerToolUse(msgspec.Struct, frozen=True):
    """Requests of tools that the service runs itself; they have a price of their own."""

    web_search_requests: int | None = None
    web_fetch_requests: int | None = None


class Iteration(msgspec.Struct, frozen=True):
    """One sampling within a request: `message`, `compaction`, `advisor_message`, `fallback_message`, or a newer kind.

    `model` is told where it may be another than the message's, and another price.
    """

    type: str | None = None
    model: str | None = None
    input_tokens: int | None = None
    output_tokens: int | None = None
    cache_creation_input_tokens: int | None = None
    cache_read_input_tokens: int | None = None


class Usage(msgspec.Struct, frozen=True):
    """Tokens of one message. `None` is "not told", `0` is a number.

    `input_tokens` are those neither read from a cache nor written to one; `output_tokens` include thinking.
    `iterations` say how the message came about, where that took several samplings (beta).
    """

    input_tokens: int | None = None
    output_tokens: int | None = None
    cache_creation_input_tokens: int | None = None
    cache_read_input_tokens: int | None = None
    cache_creation: CacheCreation | None = None
    output_tokens_details: OutputTokensDetails | None = None
    server_tool_use: ServerToolUse | None = None
    iterations: tuple[Iteration, ...] | None = None
    service_tier: str | None = None
    inference_geo: str | None = None
    speed: str | None = None

    def updated(self, later: Usage) -> Usage:
        """What holds after a later report: it is cumulative, so each field that it tells replaces the earlier one."""
        told = {name: value for name in self.__struct_fields__ if (value := getattr(later, name)) is not None}
        return msgspec.structs.replace(self, **told)


class _Counts(msgspec.Struct, frozen=True):
    """The four counts alone, for a report whose details are of a form that nobody knows yet."""

    input_tokens: int | None = None
    output_tokens: int | None = None
    cache_creation_input_tokens: int | None = None
    cache_read_input_tokens: int | None = None


class _Reported(msgspec.Struct, frozen=True):
    """A message, or a `message_delta` event: both carry `usage` at their top."""

    usage: msgspec.Raw = msgspec.Raw()


class _Started(msgspec.Struct, frozen=True):
    """A `message_start` event."""

    message: _Reported


_decode_reported = msgspec.json.Decoder(_Reported).decode
_decode_started = msgspec.json.Decoder(_Started).decode
_decode_usage = msgspec.json.Decoder(Usage | None).decode
_decode_counts = msgspec.json.Decoder(_Counts).decode


def usage_of_message(body: bytes) -> Usage | None:
    """The usage in the body of a Message or in the data of a `message_delta` event; `None` if it can't be read."""
    try:
        return _read(_decode_reported(body).usage)
    except _MALFORMED:
        return None


def usage_of_start(data: bytes) -> Usage | None:
    """The usage in the data of a `message_start` event; `None` if it can't be read."""
    try:
        return _read(_decode_started(data).message.usage)
    except _MALFORMED:
        return None


def _read(usage: msgspec.Raw) -> Usage | None:
    if not usage:
        return None
    try:
        return _decode_usage(usage)
    except msgspec.ValidationError:
        counts = _decode_counts(usage)
        return Usage(*msgspec.structs.astuple(counts))

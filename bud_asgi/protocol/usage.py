"""Token usage, from a complete message or merged over the events of a stream (vendor page "Streaming Messages")."""

from __future__ import annotations

import msgspec

from bud_asgi.protocol.malformed import MALFORMED_JSON


class CacheCreation(msgspec.Struct, frozen=True):
    """Tokens written to the cache, by its time to live."""

    ephemeral_5m_input_tokens: int | None = None
    ephemeral_1h_input_tokens: int | None = None


class OutputTokensDetails(msgspec.Struct, frozen=True):
    """Details of the output tokens, which are included in `output_tokens`."""

    thinking_tokens: int | None = None


class ServerToolUse(msgspec.Struct, frozen=True):
    """Requests made by server-side tools, which are billed separately."""

    web_search_requests: int | None = None
    web_fetch_requests: int | None = None


class Iteration(msgspec.Struct, frozen=True):
    """One sampling within a request: `message`, `compaction`, `advisor_message`, `fallback_message`, or a newer kind.

    `model` is present where it may differ from the message's, and with it the price.
    """

    type: str | None = None
    model: str | None = None
    input_tokens: int | None = None
    output_tokens: int | None = None
    cache_creation_input_tokens: int | None = None
    cache_read_input_tokens: int | None = None


class Usage(msgspec.Struct, frozen=True):
    """The token usage of one message. `None` means not reported.

    `input_tokens` excludes tokens read from or written to a cache; `output_tokens` includes thinking. `iterations`
    lists the samplings of a message that took several (beta).
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
        """Merge a later report. Reports are cumulative: each reported field replaces the earlier value."""
        reported = {name: value for name in self.__struct_fields__ if (value := getattr(later, name)) is not None}
        return msgspec.structs.replace(self, **reported)


class _Counts(msgspec.Struct, frozen=True):
    """Only the four counts, for usage whose details have an unknown form."""

    input_tokens: int | None = None
    output_tokens: int | None = None
    cache_creation_input_tokens: int | None = None
    cache_read_input_tokens: int | None = None


class _Reported(msgspec.Struct, frozen=True):
    """A message or a `message_delta` event: both have `usage` at the top level."""

    usage: msgspec.Raw = msgspec.Raw()


class _Started(msgspec.Struct, frozen=True):
    """A `message_start` event."""

    message: _Reported


_decode_reported = msgspec.json.Decoder(_Reported).decode
_decode_started = msgspec.json.Decoder(_Started).decode
_decode_usage = msgspec.json.Decoder(Usage | None).decode
_decode_counts = msgspec.json.Decoder(_Counts).decode


def usage_of_message(body: bytes) -> Usage | None:
    """The usage in the body of a Message or the data of a `message_delta` event; `None` if absent or invalid."""
    try:
        return _read(_decode_reported(body).usage)
    except MALFORMED_JSON:
        return None


def usage_of_start(data: bytes) -> Usage | None:
    """The usage in the data of a `message_start` event; `None` if absent or invalid."""
    try:
        return _read(_decode_started(data).message.usage)
    except MALFORMED_JSON:
        return None


def _read(usage: msgspec.Raw) -> Usage | None:
    if not usage:
        return None
    try:
        return _decode_usage(usage)
    except msgspec.ValidationError:
        counts = _decode_counts(usage)
        return Usage(*msgspec.structs.astuple(counts))

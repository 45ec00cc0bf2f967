"""Token usage, from a complete message or merged over the events of a stream (vendor page "Streaming Messages").

Counts decide what a caller pays, so a field that can't be read never costs the others: it counts as not reported.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, cast

import msgspec
from msgspec.structs import astuple

from bud_asgi.protocol.malformed import MALFORMED_JSON

MAX_COUNT = (1 << 53) - 1
"""The largest count that is believed: up to here, all readers of JSON have the same integers (RFC 8259, 6)."""

_MAX_LENIENT = 1 << 20  # bytes: what is not strictly JSON is read by the slower decoder, which holds the loop longer
_MAX_ITERATIONS = 100
_NUMBER = re.compile(r"[0-9]+(?:\.[0-9]+)?(?:[eE]\+?[0-9]+)?")
_WORD = re.compile(r"^[ -~]{1,100}\Z")

Count = Annotated[int, msgspec.Meta(ge=0, le=MAX_COUNT)]
"""A count of tokens or requests."""

Word = Annotated[str, msgspec.Meta(pattern=_WORD.pattern)]
"""A short name, in printable ASCII."""


class CacheCreation(msgspec.Struct, frozen=True):
    """Tokens written to the cache, by its time to live."""

    ephemeral_5m_input_tokens: Count | None = None
    ephemeral_1h_input_tokens: Count | None = None


class OutputTokensDetails(msgspec.Struct, frozen=True):
    """Details of the output tokens, which are included in `output_tokens`."""

    thinking_tokens: Count | None = None


class ServerToolUse(msgspec.Struct, frozen=True):
    """Requests made by server-side tools, which are billed separately. `other` has those of newer tools, by field."""

    web_search_requests: Count | None = None
    web_fetch_requests: Count | None = None
    other: Mapping[str, Count] = {}


class Iteration(msgspec.Struct, frozen=True):
    """One sampling within a request: `message`, `compaction`, `advisor_message`, `fallback_message`, or a newer kind.

    `model` is present where it may differ from the message's, and with it the price.
    """

    type: Word | None = None
    model: Word | None = None
    input_tokens: Count | None = None
    output_tokens: Count | None = None
    cache_creation_input_tokens: Count | None = None
    cache_read_input_tokens: Count | None = None


class Usage(msgspec.Struct, frozen=True):
    """The token usage of one message. `None` means not reported; `0` is a count like any other.

    `input_tokens` excludes tokens read from or written to a cache; `output_tokens` includes thinking. `iterations`
    lists the samplings of a message that took several (beta). `estimated` is true where the upstream's final count did
    not arrive: `output_tokens`, and `input_tokens` if nothing at all was reported, are then estimates.
    """

    input_tokens: Count | None = None
    output_tokens: Count | None = None
    cache_creation_input_tokens: Count | None = None
    cache_read_input_tokens: Count | None = None
    cache_creation: CacheCreation | None = None
    output_tokens_details: OutputTokensDetails | None = None
    server_tool_use: ServerToolUse | None = None
    iterations: tuple[Iteration, ...] | None = None
    service_tier: Word | None = None
    inference_geo: Word | None = None
    speed: Word | None = None
    estimated: bool = False

    def updated(self, later: Usage) -> Usage:
        """Merge a later report. Reports are cumulative: a count never shrinks, any other reported field is replaced.

        A report with `iterations` replaces the counts: after a compaction, its own are those of the last sampling
        (recorded: `cache_read_input_tokens` 55,096 and then 0, with the former in the iterations).
        """
        values = list(astuple(self))
        for at, value in enumerate(astuple(later)):
            if value is not None:
                values[at] = value if later.iterations else _merged(values[at], value)
        return Usage(*values)


class _Message(msgspec.Struct, frozen=True):
    """A message or a `message_delta` event: both have `usage` at the top level."""

    usage: Usage | None = None


class _Start(msgspec.Struct, frozen=True):
    """A `message_start` event."""

    message: _Message


class _RawMessage(msgspec.Struct, frozen=True):
    """The same as `_Message`, for a usage object with fields that do not have the usual form."""

    usage: msgspec.Raw = msgspec.Raw()


class _RawStart(msgspec.Struct, frozen=True):
    """The same as `_Start`."""

    message: _RawMessage


_decode_message = msgspec.json.Decoder(_Message).decode
_decode_start = msgspec.json.Decoder(_Start).decode
_decode_raw_message = msgspec.json.Decoder(_RawMessage).decode
_decode_raw_start = msgspec.json.Decoder(_RawStart).decode
_decode_usage = msgspec.json.Decoder(Usage | None).decode


def usage_of_message(body: bytes) -> Usage | None:
    """The usage in the body of a Message or the data of a `message_delta` event; `None` if absent or invalid."""
    try:
        usage = _decode_message(body).usage
        if usage is None or _is_usual(usage):
            return usage
    except MALFORMED_JSON:
        pass
    try:
        return read_usage(_decode_raw_message(body).usage)
    except MALFORMED_JSON:
        return _usage_of_object(_decode_leniently(body).get("usage"))


def usage_of_start(data: bytes) -> Usage | None:
    """The usage in the data of a `message_start` event; `None` if absent or invalid."""
    try:
        usage = _decode_start(data).message.usage
        if usage is None or _is_usual(usage):
            return usage
    except MALFORMED_JSON:
        pass
    try:
        return read_usage(_decode_raw_start(data).message.usage)
    except MALFORMED_JSON:
        return _usage_of_object(_object(_decode_leniently(data).get("message")).get("usage"))


def _is_usual(usage: Usage) -> bool:
    """Whether a decoded usage object is complete: the counts of newer tools, and what we add ourselves, are not."""
    return usage.server_tool_use is None and not usage.estimated


def read_usage(usage: bytes | msgspec.Raw) -> Usage | None:
    """Read a usage object; `None` if it is not an object.

    Counts may be written as integers, as floats or strings with an integral value. A field with anything else, such as
    a negative count, counts as not reported.
    """
    if not usage:
        return None
    try:
        read = _decode_usage(usage)
    except MALFORMED_JSON:
        read = None
    else:
        if read is None or _is_usual(read):
            return read
    return _usage_of_object(_decode_leniently(b'{"usage":%b}' % usage).get("usage"))


def _decode_leniently(text: bytes) -> dict[str, Any]:
    """Decode JSON with `NaN`, numbers of any size, or invalid UTF-8; empty if it is not an object."""
    if len(text) > _MAX_LENIENT:
        return {}
    try:
        return _object(json.loads(text.decode("utf-8", "replace"), parse_int=float))
    except (ValueError, RecursionError):
        return {}


def _usage_of_object(usage: object) -> Usage | None:
    if not _is_object(usage):
        return None
    fields = _object(usage)
    cache, details = fields.get("cache_creation"), fields.get("output_tokens_details")
    return Usage(
        *_counts(fields, _COUNTS),
        cache_creation=CacheCreation(*_counts(cache, _TTLS)) if _is_object(cache) else None,
        output_tokens_details=OutputTokensDetails(*_counts(details, _DETAILS)) if _is_object(details) else None,
        server_tool_use=_server_tool_use(fields.get("server_tool_use")),
        iterations=_iterations(fields.get("iterations")),
        service_tier=_word(fields.get("service_tier")),
        inference_geo=_word(fields.get("inference_geo")),
        speed=_word(fields.get("speed")),
    )


_COUNTS = ("input_tokens", "output_tokens", "cache_creation_input_tokens", "cache_read_input_tokens")


_TTLS = CacheCreation.__struct_fields__
_DETAILS = OutputTokensDetails.__struct_fields__
_TOOLS = ("web_search_requests", "web_fetch_requests")


def _server_tool_use(value: object) -> ServerToolUse | None:
    if not _is_object(value):
        return None
    fields = _object(value)
    names = [name for name in fields if name not in _TOOLS and name.endswith("_requests") and _word(name)]
    other = {name: count for name in names if (count := _count(fields[name])) is not None}
    return ServerToolUse(*_counts(fields, _TOOLS), other=other)


def _iterations(values: object) -> tuple[Iteration, ...] | None:
    if not isinstance(values, list):
        return None
    listed = [_object(value) for value in cast("list[object]", values)[:_MAX_ITERATIONS]]
    return tuple(
        Iteration(_word(fields.get("type")), _word(fields.get("model")), *_counts(fields, _COUNTS))
        for fields in listed
        if fields
    )


def _counts(fields: object, names: Sequence[str]) -> list[int | None]:
    return [_count(_object(fields).get(name)) for name in names]


def _count(value: object) -> int | None:
    """A count written as a number or as a string of one; `None` for anything else, and for what no count can be."""
    if isinstance(value, str):
        value = float(value) if _NUMBER.fullmatch(value[:40]) else None
    if isinstance(value, float) and 0 <= value <= MAX_COUNT and value.is_integer():
        return int(value)
    return None


def _word(value: object) -> str | None:
    return value if isinstance(value, str) and _WORD.match(value) else None


def _is_object(value: object) -> bool:
    return isinstance(value, dict)


def _object(value: object) -> dict[str, Any]:
    return cast("dict[str, Any]", value) if isinstance(value, dict) else {}


def _merged(earlier: Any, later: Any) -> Any:
    """Merge one field of two reports."""
    if earlier is None or later is None:
        return earlier if later is None else later
    if isinstance(later, int):
        return max(earlier, later)
    if isinstance(later, dict):
        fields = cast("dict[str, Any]", later)
        return {**earlier, **{name: _merged(earlier.get(name), value) for name, value in fields.items()}}
    if isinstance(later, msgspec.Struct):
        return type(later)(*map(_merged, astuple(earlier), astuple(later)))
    return later

"""Token usage, from a complete message or merged over the events of a stream (vendor page "Streaming Messages").

Counts decide what a caller pays, so a field that can't be read never costs the others: it counts as not reported.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Annotated, Any, TypeVar, cast

import msgspec

from bud_asgi.protocol.malformed import MALFORMED_JSON

MAX_COUNT = 1 << 53
"""The largest count that is believed: up to here, every JSON reader has the same integer."""

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
        """Merge a later report. Reports are cumulative: a count never shrinks, any other reported field is replaced."""
        reported = {
            name: _merged(getattr(self, name), value)
            for name in self.__struct_fields__
            if (value := getattr(later, name)) is not None
        }
        return msgspec.structs.replace(self, **reported)


class _Reported(msgspec.Struct, frozen=True):
    """A message or a `message_delta` event: both have `usage` at the top level."""

    usage: msgspec.Raw = msgspec.Raw()


class _Started(msgspec.Struct, frozen=True):
    """A `message_start` event."""

    message: _Reported


_decode_reported = msgspec.json.Decoder(_Reported).decode
_decode_started = msgspec.json.Decoder(_Started).decode
_decode_usage = msgspec.json.Decoder(Usage | None).decode


def usage_of_message(body: bytes) -> Usage | None:
    """The usage in the body of a Message or the data of a `message_delta` event; `None` if absent or invalid."""
    try:
        return read_usage(_decode_reported(body).usage)
    except MALFORMED_JSON:
        return _usage_of_object(_decode_leniently(body).get("usage"))


def usage_of_start(data: bytes) -> Usage | None:
    """The usage in the data of a `message_start` event; `None` if absent or invalid."""
    try:
        return read_usage(_decode_started(data).message.usage)
    except MALFORMED_JSON:
        return _usage_of_object(_object(_decode_leniently(data).get("message")).get("usage"))


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
        if read is None or (read.server_tool_use is None and not read.estimated):
            return read
    return _usage_of_object(_decode_leniently(b'{"usage":%b}' % usage).get("usage"))


def _decode_leniently(text: bytes) -> dict[str, Any]:
    """Decode JSON with `NaN`, numbers of any size, or invalid UTF-8; empty if it is no object."""
    if len(text) > _MAX_LENIENT:
        return {}
    try:
        return _object(json.loads(text.decode("utf-8", "replace"), parse_int=float))
    except (ValueError, RecursionError):
        return {}


def _usage_of_object(usage: object) -> Usage | None:
    if not isinstance(usage, dict):
        return None
    fields = _object(usage)
    iterations = fields.get("iterations")
    return Usage(
        **_counts(fields, _COUNTS),
        cache_creation=_details(CacheCreation, fields.get("cache_creation")),
        output_tokens_details=_details(OutputTokensDetails, fields.get("output_tokens_details")),
        server_tool_use=_server_tool_use(fields.get("server_tool_use")),
        iterations=_iterations(iterations) if isinstance(iterations, list) else None,
        service_tier=_word(fields.get("service_tier")),
        inference_geo=_word(fields.get("inference_geo")),
        speed=_word(fields.get("speed")),
    )


_COUNTS = ("input_tokens", "output_tokens", "cache_creation_input_tokens", "cache_read_input_tokens")


_Details = TypeVar("_Details", CacheCreation, OutputTokensDetails)


def _details(kind: type[_Details], value: object) -> _Details | None:
    return kind(**_counts(_object(value), kind.__struct_fields__)) if isinstance(value, dict) else None


def _server_tool_use(value: object) -> ServerToolUse | None:
    if not isinstance(value, dict):
        return None
    fields = _object(value)
    known = ServerToolUse.__struct_fields__[:2]
    names = [name for name in fields if name not in known and name.endswith("_requests") and _word(name)]
    other = {name: count for name, count in _counts(fields, names).items() if count is not None}
    return ServerToolUse(**_counts(fields, known), other=other)


def _iterations(values: list[object]) -> tuple[Iteration, ...]:
    return tuple(
        Iteration(_word(fields.get("type")), _word(fields.get("model")), **_counts(fields, _COUNTS))
        for value in values[:_MAX_ITERATIONS]
        if (fields := _object(value))
    )


def _counts(fields: Mapping[str, object], names: tuple[str, ...] | list[str]) -> dict[str, int | None]:
    return {name: _count(fields.get(name)) for name in names}


def _count(value: object) -> int | None:
    """A count written as a number or as a string of one; `None` for anything else, and for what no count can be."""
    if isinstance(value, str):
        value = float(value) if _NUMBER.fullmatch(value[:40]) else None
    if isinstance(value, float) and 0 <= value <= MAX_COUNT and value.is_integer():
        return int(value)
    return None


def _word(value: object) -> str | None:
    return value if isinstance(value, str) and _WORD.match(value) else None


def _object(value: object) -> dict[str, Any]:
    return cast("dict[str, Any]", value) if isinstance(value, dict) else {}


def _merged(earlier: object, later: object) -> object:
    """Merge one field of two reports."""
    if isinstance(earlier, int) and isinstance(later, int):
        return max(earlier, later)
    if isinstance(earlier, tuple) and isinstance(later, tuple):
        return later if len(cast("tuple[object]", later)) >= len(cast("tuple[object]", earlier)) else earlier
    if isinstance(earlier, CacheCreation | OutputTokensDetails | ServerToolUse) and isinstance(later, type(earlier)):
        both = zip(msgspec.structs.astuple(earlier), msgspec.structs.astuple(later), strict=True)
        return type(earlier)(*(_merged(*pair) for pair in both))
    if isinstance(earlier, dict) and isinstance(later, dict):
        fields, others = _object(earlier), _object(later)
        return {**fields, **{name: _merged(fields.get(name), value) for name, value in others.items()}}
    return earlier if later is None else later

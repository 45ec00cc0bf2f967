"""The request of the Messages API: decoded once, validated at its top level, its bytes kept.

The upstream receives the bytes that the gateway validated: values are slices of the original body, and edits are
splices at known positions. Nested values are left to the upstream to validate.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping

import msgspec

from bud_asgi.protocol.body import invalid_body
from bud_asgi.protocol.errors import InvalidRequest
from bud_asgi.protocol.fields import FIELDS, REQUIRED, REQUIRED_TO_COUNT, integer_of, validate, validate_needed
from bud_asgi.protocol.malformed import MALFORMED_JSON
from bud_asgi.protocol.plain import MAX_PLAIN, plain_fields

Span = tuple[int, int]
"""The position of a value in the body: start and end, as in a slice."""

LARGE_BODY = 1 << 20
"""Bodies over this size, in bytes, are checked before their keys are read: millions would block the event loop."""

MAX_UNKNOWN = 1 << 20
"""The largest number of bytes of a large body that may lie outside the known fields."""

_MAX_COPIED = 64 << 10  # bytes of a body up to which a copy costs less than views of its parts

MAX_KEYS = 1000
"""The largest number of top-level keys; the service knows about thirty."""

_KEY = re.compile(rb'[ \t\n\r]*+[{,][ \t\n\r]*+"([^"\\]*+(?:\\.[^"\\]*+)*+)"[ \t\n\r]*+:[ \t\n\r]*+', re.DOTALL)

_COMMA = re.compile(rb"[ \t\n\r]*+[{,]")  # before a key
_BACKSLASH = ord("\\")
_NULL = ord("n")

_END = re.compile(rb"[ \t\n\r]*+\}")

_decode_fields = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_decode_string = msgspec.json.Decoder(str).decode
_KnownFields = msgspec.defstruct("_KnownFields", [(name, msgspec.Raw, msgspec.Raw()) for name in FIELDS])
_decode_known = msgspec.json.Decoder(_KnownFields).decode


class NamedModel(msgspec.Struct, frozen=True, gc=False):
    """A further model that a body names, and where: `fallbacks.0.model`. `None` lets the service choose one."""

    field: str
    model: str | None


class MessagesRequest(msgspec.Struct, frozen=True, eq=False, gc=False):
    """A validated request: the original `body`, the span of each top-level value, and the fields the gateway reads.

    `counting`: a request to count tokens instead of creating a Message; `max_tokens` is optional then. `violation`: why
    Anthropic's models would reject it, where the gateway also has models of others; empty if they would not.
    `named_models` are the models that the body names besides `model`. `is_plain`: it is known to have neither such
    names nor fields outside `PLAIN_FIELDS`. `located` are the `spans`, once something has asked for them.
    """

    body: bytes
    model: str
    max_tokens: int | None
    stream: bool
    counting: bool = False
    violation: str = ""
    named_models: tuple[NamedModel, ...] = ()
    is_plain: bool = False
    located: Mapping[str, Span] | None = None

    @property
    def spans(self) -> Mapping[str, Span]:
        """The position of each top-level value, in the order of the body."""
        if self.located is None:
            msgspec.structs.force_setattr(self, "located", split_object(self.body)[1])
        return self.located or {}

    def __repr__(self) -> str:
        """Leave out the body, which contains user data."""
        return f"MessagesRequest(model={self.model!r}, {len(self.body)} bytes)"

    def value(self, name: str) -> bytes | None:
        """The bytes of a top-level value; `None` if the field is absent."""
        span = self.spans.get(name)
        return None if span is None else self.body[span[0] : span[1]]

    def has(self, name: str) -> bool:
        """Whether a top-level field is present, and its value is not null."""
        span = self.spans.get(name)
        return span is not None and self.body[span[0]] != _NULL

    def with_value(self, name: str, value: bytes) -> list[bytes | memoryview]:
        """The body with one top-level value replaced, as buffers. All other bytes are unchanged and not copied."""
        start, end = self.spans[name]
        view = memoryview(self.body)
        return [view[:start], value, view[end:]]


def splice(
    request: MessagesRequest, *, without: Collection[str] = (), changed: Mapping[str, bytes] | None = None
) -> bytes | list[bytes | memoryview]:
    """The body with the top-level fields in `without` removed and those in `changed` set; a large one as buffers.

    A changed field keeps its position; a new one is appended. The bytes of all other fields are unchanged.
    """
    body, spans, changed = request.body, request.spans, changed or {}
    is_small = len(body) <= _MAX_COPIED
    view = body if is_small else memoryview(body)
    parts: list[bytes | memoryview] = []
    end = 0  # of the field before: the comma and the blanks after it belong to the next field
    for name, (start, until) in spans.items():
        if name not in without:
            if name in changed:
                parts += (view[end:start], changed[name])
            else:
                parts.append(view[end:until])
        end = until
    for name, value in changed.items():
        if name not in spans:
            parts += (b",%b:" % msgspec.json.encode(name), value)
    if parts and (comma := _COMMA.match(parts[0])):
        parts[0] = parts[0][comma.end() :]
    parts.insert(0, b"{")
    parts.append(b"}")
    return b"".join(parts) if is_small else parts


def edited(
    request: MessagesRequest, *, without: Collection[str] = (), changed: Mapping[str, bytes] | None = None
) -> MessagesRequest:
    """The request with the same edits as in `splice`, for further edits. Copies the body once."""
    parts = splice(request, without=without, changed=changed)
    body = parts if isinstance(parts, bytes) else b"".join(parts)
    return msgspec.structs.replace(request, body=body, located=None, is_plain=False)


def check_unknown_size(body: bytes) -> None:
    """Check a large body before `decode_request`: at most `MAX_UNKNOWN` bytes may lie outside the known fields.

    Raises `InvalidRequest`. Separate from `decode_request` so that the caller can yield to the event loop in between:
    this takes up to 45 ms for 32 MB.
    """
    if len(body) <= LARGE_BODY:
        return
    try:
        known = _decode_known(body)
    except MALFORMED_JSON as error:
        raise invalid_json(error) from None
    inside = sum(memoryview(value).nbytes for value in msgspec.structs.astuple(known))
    if len(body) - inside > MAX_UNKNOWN:
        raise invalid_body(f"more than {MAX_UNKNOWN} bytes lie outside the known fields or in duplicate keys")


def decode_request(body: bytes, *, counting: bool = False, others: bool = False) -> MessagesRequest:
    """Decode and validate the body of `POST /v1/messages` or `count_tokens`, after `check_unknown_size` accepted it.

    With `others`, for a gateway that has models with bounds of their own, only what the gateway itself reads must be
    valid; the first other error becomes the request's `violation`.

    Raises `InvalidRequest` with the invalid field or the error in the body as a whole. Takes microseconds for a small
    body, 0.3 ms per megabyte of text, 66 ms for the worst 32 MB.
    """
    if len(body) <= MAX_PLAIN and (plain := plain_fields(body)) and (counting or plain.max_tokens is not None):
        stream = plain.stream is True and not counting
        return MessagesRequest(body, plain.model, plain.max_tokens, stream, counting, is_plain=True)
    fields, spans = split_object(body)
    try:
        violation = _validate(body, spans, counting=counting, others=others)
        model = _decode_string(fields["model"])
    except MALFORMED_JSON as error:
        raise invalid_json(error) from None
    limit = spans.get("max_tokens")
    return MessagesRequest(
        body=body,
        model=model,
        max_tokens=None if limit is None or violation else integer_of(body[limit[0] : limit[1]]),
        stream=not counting and "stream" in spans and body.startswith(b"true", spans["stream"][0]),
        counting=counting,
        violation=violation,
        located=spans,
    )


def split_object(body: bytes) -> tuple[Mapping[str, msgspec.Raw], dict[str, Span]]:
    """Split an object into its values, undecoded, with their spans.

    Raises `InvalidRequest` for malformed JSON, a duplicate key, and more than `MAX_KEYS` keys.
    """
    try:
        fields = _decode_fields(body)
    except MALFORMED_JSON as error:
        raise invalid_json(error) from None
    if len(fields) > MAX_KEYS:
        raise invalid_body(f"it has more than {MAX_KEYS} keys")
    return fields, _locate(body, fields)


def invalid_json(error: Exception) -> InvalidRequest:
    """The error for a body whose JSON cannot be decoded: `error` is one of `MALFORMED_JSON`."""
    if isinstance(error, msgspec.ValidationError):
        return invalid_body(str(error).replace("`", "").replace("Expected", "expected"))
    if isinstance(error, msgspec.DecodeError):
        return invalid_body(str(error).removeprefix("JSON is malformed: "))
    if isinstance(error, UnicodeDecodeError):
        return invalid_body(f"it is not UTF-8 ({error.reason})")
    return invalid_body("it is nested too deeply")


def _locate(body: bytes, fields: Mapping[str, msgspec.Raw]) -> dict[str, Span]:
    """Find the span of each value. Raises `InvalidRequest` for a duplicate key: the decoder silently keeps the last."""
    spans: dict[str, Span] = {}
    end = 0
    for name, value in fields.items():
        start = end + len(name) + 4  # `{` or `,`, two quotes, `:`
        end = start + len(value)
        spans[name] = (start, end)
    # The decoded pairs occupy distinct bytes of the body and take at least this many, written without whitespace. A
    # body of exactly that size has no room for whitespace, duplicates, and keys that are escaped or not ASCII.
    return spans if end + 1 == len(body) else _walk(body, fields)


def _walk(body: bytes, fields: Mapping[str, msgspec.Raw]) -> dict[str, Span]:
    """Find the spans in a body with whitespace between tokens, escapes in keys, or a duplicate key.

    Walks the body in parallel with the decoded fields: each key must be the next one of the dict, followed by its
    value, byte for byte. If the walk reaches the end, every key occurs once; where it fails, there is a duplicate.
    """
    spans: dict[str, Span] = {}
    end = 0
    for name, value in fields.items():
        found, start = _key(body, end)
        slice_ = memoryview(value)
        if found != name or not body.startswith(slice_, start):
            raise _duplicate(found)
        end = start + slice_.nbytes
        spans[name] = (start, end)
    if spans and not _END.match(body, end):
        raise _duplicate(_key(body, end)[0])
    return spans


def _key(body: bytes, position: int) -> tuple[str, int]:
    match = _KEY.match(body, position)
    if match is None:
        raise invalid_body("a key appears more than once")
    key = match[1]
    name = msgspec.json.decode(b'"' + key + b'"', type=str) if _BACKSLASH in key else key.decode()
    return name, match.end()


def _validate(body: bytes, spans: Mapping[str, Span], *, counting: bool, others: bool) -> str:
    """Validate the fields; return the first error that only Anthropic's models have. Raises `InvalidRequest`."""
    try:
        validate(body, spans, REQUIRED_TO_COUNT if counting else REQUIRED)
    except InvalidRequest as error:
        if not others:
            raise
        validate_needed(body, spans)
        return str(error)
    return ""


def _duplicate(name: str) -> InvalidRequest:
    return invalid_body(f"the key {name[:100]!r} appears more than once")

"""The top-level fields of a Messages request: their types and bounds (vendor page "Create a Message").

The gateway validates no deeper than this, and reports errors as the service does: `<field>: <reason>`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from functools import lru_cache

import msgspec

from bud_asgi.protocol.errors import InvalidRequest
from bud_asgi.protocol.folding import LONGEST_FOLDED, folded

MAX_MODEL_NAME = 256
"""The longest model name, in characters."""

_KIND_BY_FIRST_BYTE: Mapping[int, str] = {
    ord('"'): "string",
    ord("{"): "object",
    ord("["): "array",
    ord("t"): "boolean",
    ord("f"): "boolean",
    ord("n"): "null",
    **dict.fromkeys(b"-0123456789", "number"),
}

_TYPE_NAMES: Mapping[str, str] = {
    "string": "string",
    "object": "dictionary",
    "array": "list",
    "boolean": "boolean",
    "number": "number",
}

_DIGITS = frozenset(b"-0123456789")
_FIRST_ITEM = re.compile(rb"\[[ \t\n\r]*+(.)", re.DOTALL)


class Field(msgspec.Struct, frozen=True):
    """The values that a top-level field accepts: JSON kinds, and for numbers the bounds and whether integers only.

    `null` means absent in every optional field except `stream`; the upstream decides whether it accepts that.
    `first_bytes`, the bytes with which an accepted value can begin, is derived from the kinds.
    """

    kinds: tuple[str, ...]
    null: bool = True
    integer: bool = False
    minimum: float = -math.inf
    maximum: float = math.inf
    first_bytes: frozenset[int] = frozenset()

    def __post_init__(self) -> None:
        """Derive `first_bytes`."""
        kinds = (*self.kinds, "null") if self.null else self.kinds
        first_bytes = frozenset(byte for byte, kind in _KIND_BY_FIRST_BYTE.items() if kind in kinds)
        msgspec.structs.force_setattr(self, "first_bytes", first_bytes)

    @property
    def type_error(self) -> str:
        """The service's message for a value of another kind."""
        kinds = ("integer",) if self.integer else tuple(_TYPE_NAMES[kind] for kind in self.kinds)
        return f"Input should be a valid {' or '.join(kinds)}"


FIELDS: Mapping[str, Field] = {
    "model": Field(("string",), null=False),
    "messages": Field(("array",), null=False),
    "max_tokens": Field(("number",), null=False, integer=True, minimum=0),
    "stream": Field(("boolean",), null=False),
    "system": Field(("string", "array")),
    "stop_sequences": Field(("array",)),
    "temperature": Field(("number",), minimum=0, maximum=1),
    "top_p": Field(("number",), minimum=0, maximum=1),
    "top_k": Field(("number",), integer=True, minimum=0),
    "metadata": Field(("object",)),
    "tools": Field(("array",)),
    "tool_choice": Field(("object",)),
    "thinking": Field(("object",)),
    "output_config": Field(("object",)),
    "output_format": Field(("object",)),
    "cache_control": Field(("object",)),
    "service_tier": Field(("string",)),
    "inference_geo": Field(("string",)),
    "speed": Field(("string",)),
    "container": Field(("string", "object")),
    "diagnostics": Field(("object",)),
    "user_profile_id": Field(("string",)),
    "context_management": Field(("object",)),
    "compaction": Field(("object",)),
    "thread": Field(("object",)),
    "mcp_servers": Field(("array",)),
    "fallbacks": Field(("string", "array")),
    "fallback_credit_token": Field(("string", "object")),
    "billing_policy": Field(("object",)),
}
"""The fields that the gateway knows. All others are forwarded unchanged."""

_CLOUD_FIELDS = ("anthropic_version", "anthropic_beta", "amazon-bedrock-guardrailConfig")
_BY_FOLDED: Mapping[str, str] = {folded(name): name for name in (*FIELDS, *_CLOUD_FIELDS)}

REQUIRED = ("model", "messages", "max_tokens")
"""The required fields of a request for a Message, in the order in which the service reports them as missing."""

_NEEDED = ("model", "messages", "stream")

REQUIRED_TO_COUNT = ("model", "messages")
"""The required fields of a request to count tokens (vendor page "Count tokens in a Message")."""


def validate(body: bytes, spans: Mapping[str, tuple[int, int]], required: tuple[str, ...] = REQUIRED) -> None:
    """Validate the top level of a body whose values are at `spans`. Raises `InvalidRequest` for the first error."""
    for name in required:
        if name not in spans:
            raise InvalidRequest(f"{name}: Field required")
    for name, (start, end) in spans.items():
        field = FIELDS.get(name)
        if field is None:
            check_spelling(name)
        elif body[start] not in field.first_bytes:
            raise InvalidRequest(f"{name}: {field.type_error}")
        elif body[start] in _DIGITS:
            _validate_number(name, field, body[start:end])
    _validate_model(body, spans["model"])
    _validate_messages(body, spans["messages"][0])


def validate_needed(body: bytes, spans: Mapping[str, tuple[int, int]]) -> None:
    """Validate only what the gateway itself reads, and the spelling of keys. Raises `InvalidRequest`."""
    for name in spans:
        if name not in FIELDS:
            check_spelling(name)
    for name in _NEEDED:
        if name not in spans and name in REQUIRED:
            raise InvalidRequest(f"{name}: Field required")
        if name in spans and body[spans[name][0]] not in FIELDS[name].first_bytes:
            raise InvalidRequest(f"{name}: {FIELDS[name].type_error}")
    _validate_model(body, spans["model"])


def check_spelling(key: str) -> None:
    """Check an unknown key. Raises `InvalidRequest` for one that some upstreams would take for a known field."""
    known = _known_spelling(key) if len(key) <= LONGEST_FOLDED else None
    if known is not None and known != key:
        raise InvalidRequest(f"{key}: Extra inputs are not permitted; write {known}")


@lru_cache(maxsize=1024)
def _known_spelling(key: str) -> str | None:
    return _BY_FOLDED.get(folded(key))


def integer_of(text: bytes) -> int:
    """The value of a validated integer, which may be written `1024`, `1024.0` or `1e3`."""
    return int(text) if text.isdigit() else int(float(text))


def _validate_number(name: str, field: Field, text: bytes) -> None:
    if field.integer and len(text) < 300 and text.isdigit():  # the only bound of integer fields is 0
        return
    value = float(text)
    if field.integer and not (math.isfinite(value) and value.is_integer()):
        raise InvalidRequest(f"{name}: {field.type_error}")
    if value < field.minimum:
        raise InvalidRequest(f"{name}: Input should be greater than or equal to {field.minimum:g}")
    if value > field.maximum:
        raise InvalidRequest(f"{name}: Input should be less than or equal to {field.maximum:g}")


def _validate_model(body: bytes, span: tuple[int, int]) -> None:
    start, end = span[0] + 1, span[1] - 1
    if start == end:
        raise InvalidRequest("model: String should have at least 1 character")
    if _longer_than(body, start, end, MAX_MODEL_NAME):
        raise InvalidRequest(f"model: String should have at most {MAX_MODEL_NAME} characters")


def _longer_than(body: bytes, start: int, end: int, limit: int) -> bool:
    if end - start <= limit:
        return False
    if end - start > 12 * limit:  # the longest form of a character is an escaped surrogate pair
        return True
    return len(msgspec.json.decode(body[start - 1 : end + 1], type=str)) > limit


def _validate_messages(body: bytes, start: int) -> None:
    if body.startswith(b"[{", start):
        return
    first = _FIRST_ITEM.match(body, start)
    if first is None or first[1] == b"]":
        raise InvalidRequest("messages: at least one message is required")
    if first[1] != b"{":
        raise InvalidRequest("messages.0: Input should be a valid dictionary")

"""The top-level fields of a Messages request: their types and bounds (vendor page "Create a Message").

The gateway judges no deeper than this, and names a fault as the service does: `<field>: <reason>`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping

import msgspec

from bud_asgi.protocol.errors import InvalidRequest

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

_WORDS: Mapping[str, str] = {
    "string": "string",
    "object": "dictionary",
    "array": "list",
    "boolean": "boolean",
    "number": "number",
}

_DIGITS = frozenset(b"-0123456789")
_FIRST_ITEM = re.compile(rb"\[[ \t\n\r]*+(.)", re.DOTALL)


class Field(msgspec.Struct, frozen=True):
    """What a top-level field may hold: JSON kinds, and for numbers whether whole, and the bounds.

    `null` stands for absence in every optional field but `stream`; the upstream has the last word on it.
    """

    kinds: tuple[str, ...]
    null: bool = True
    whole: bool = False
    least: float = -math.inf
    most: float = math.inf
    begins: frozenset[int] = frozenset()

    def __post_init__(self) -> None:
        """Look up once by which bytes a value that may stand here begins."""
        kinds = (*self.kinds, "null") if self.null else self.kinds
        begins = frozenset(byte for byte, kind in _KIND_BY_FIRST_BYTE.items() if kind in kinds)
        msgspec.structs.force_setattr(self, "begins", begins)

    @property
    def words(self) -> str:
        """How the service says what is allowed."""
        kinds = ("integer",) if self.whole else tuple(_WORDS[kind] for kind in self.kinds)
        return f"Input should be a valid {' or '.join(kinds)}"


FIELDS: Mapping[str, Field] = {
    "model": Field(("string",), null=False),
    "messages": Field(("array",), null=False),
    "max_tokens": Field(("number",), null=False, whole=True, least=0),
    "stream": Field(("boolean",), null=False),
    "system": Field(("string", "array")),
    "stop_sequences": Field(("array",)),
    "temperature": Field(("number",), least=0, most=1),
    "top_p": Field(("number",), least=0, most=1),
    "top_k": Field(("number",), whole=True, least=0),
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
"""The fields that the gateway knows. Any other is handed on as it came."""

REQUIRED = ("model", "messages", "max_tokens")
"""What a Message can't be made without, in the order in which the service misses it."""

REQUIRED_TO_COUNT = ("model", "messages")
"""What tokens can't be counted without (vendor page "Count tokens in a Message")."""


def judge(body: bytes, spans: Mapping[str, tuple[int, int]], required: tuple[str, ...] = REQUIRED) -> None:
    """Judge the top level of a body whose values stand at `spans`. Raises `InvalidRequest` for the first fault."""
    for name in required:
        if name not in spans:
            raise InvalidRequest(f"{name}: Field required")
    for name, (start, end) in spans.items():
        field = FIELDS.get(name)
        if field is None:
            continue
        first = body[start]
        if first not in field.begins:
            raise InvalidRequest(f"{name}: {field.words}")
        if first in _DIGITS:
            _judge_number(name, field, body[start:end])
    _judge_model(body, spans["model"])
    _judge_messages(body, spans["messages"][0])


def integer_of(text: bytes) -> int:
    """The value of a whole number that was judged: `1024`, `1024.0` and `1e3` are whole."""
    return int(text) if text.isdigit() else int(float(text))


def _judge_number(name: str, field: Field, text: bytes) -> None:
    if field.whole and len(text) < 300 and text.isdigit():  # the one bound of whole numbers is 0
        return
    value = float(text)
    if field.whole and not (math.isfinite(value) and value.is_integer()):
        raise InvalidRequest(f"{name}: {field.words}")
    if value < field.least:
        raise InvalidRequest(f"{name}: Input should be greater than or equal to {field.least:g}")
    if value > field.most:
        raise InvalidRequest(f"{name}: Input should be less than or equal to {field.most:g}")


def _judge_model(body: bytes, span: tuple[int, int]) -> None:
    start, end = span[0] + 1, span[1] - 1
    if start == end:
        raise InvalidRequest("model: String should have at least 1 character")
    if _longer_than(body, start, end, MAX_MODEL_NAME):
        raise InvalidRequest(f"model: String should have at most {MAX_MODEL_NAME} characters")


def _longer_than(body: bytes, start: int, end: int, most: int) -> bool:
    if end - start <= most:
        return False
    if end - start > 12 * most:  # no character takes more than an escaped pair
        return True
    return len(msgspec.json.decode(body[start - 1 : end + 1], type=str)) > most


def _judge_messages(body: bytes, start: int) -> None:
    if body.startswith(b"[{", start):
        return
    first = _FIRST_ITEM.match(body, start)
    if first is None or first[1] == b"]":
        raise InvalidRequest("messages: at least one message is required")
    if first[1] != b"{":
        raise InvalidRequest("messages.0: Input should be a valid dictionary")

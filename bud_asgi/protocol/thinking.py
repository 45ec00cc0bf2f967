"""Thinking blocks that an upstream refuses, and a request without them.

Vendor pages "Extended thinking", "Adaptive thinking", "Preserved thinking", "Context editing", "Messages".
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import takewhile

import msgspec
from msgspec.json import encode

from bud_asgi.protocol.errors import GatewayError, read_error
from bud_asgi.protocol.malformed import MALFORMED_JSON
from bud_asgi.protocol.request import MessagesRequest, edited
from bud_asgi.protocol.values import TooManyValues, first_byte, is_object, parse_list, parse_object, type_of

# As Anthropic, Bedrock and Vertex AI write it. Some front ends leave out the backticks; Bedrock refuses an empty
# signature by its path. A block that is bound to another conversation has a sentence more.
_REFUSED = re.compile(
    r"\.content\.\d+(?:"
    r": Invalid `?signature`? in `?thinking`? block"
    r"|: Invalid `?data`? in `?redacted_thinking`? block"
    r"|\.thinking\.signature[.:]"
    r"|\.redacted_thinking\.data[.:]"
    r")"
)

_IN_BODY = b'thinking"'  # how the type of every block to leave out ends; a quote inside a text is escaped
_RESULT = b'"tool_result"'
_BLOCKS = re.compile(r"(?:redacted_)?thinking")
_EDITS = re.compile(r"clear_thinking_.*")


class _Message(msgspec.Struct, frozen=True):
    role: str = ""
    content: msgspec.Raw = msgspec.Raw()


class _Binding(msgspec.Struct, frozen=True):
    prefix_mismatch_behavior: str = ""


class _Thinking(msgspec.Struct, frozen=True):
    type: str = ""
    block_binding: _Binding | None = None


_decode_message = msgspec.json.Decoder(_Message).decode
_decode_thinking = msgspec.json.Decoder(_Thinking | None).decode


def is_signature_refusal(error: GatewayError) -> bool:
    """Return whether an upstream refused a request because of the signature of a thinking block in its history."""
    if error.status != 400:
        return False
    parsed = None if error.upstream_body is None else read_error(error.upstream_body)
    return _REFUSED.search(str(error) if parsed is None else parsed.message) is not None


def without_thinking(request: MessagesRequest) -> tuple[MessagesRequest, tuple[str, ...]] | None:
    """Return a request without the thinking blocks of its history, and the names of what was left out.

    An assistant message with nothing else is left out too; messages of the same role may follow each other. Thinking is
    turned off where the rest would have to begin with a thinking block. All other values keep their bytes.

    `None` if there are no such blocks, if the client asks for the refusal (`block_binding`), and if what remains would
    not be valid, or has too many parts to be searched.
    """
    if request.body.find(_IN_BODY, *request.spans.get("messages", (0, 0))) < 0:
        return None
    try:
        thinking = _decode_thinking(request.value("thinking") or b"null") or _Thinking()
        messages = _messages_without_thinking(request.value("messages") or b"[]")
        if messages is None or (thinking.block_binding or _Binding()).prefix_mismatch_behavior == "error":
            return None
        changed, names = {"messages": encode(messages)}, ["messages.thinking"]
        if thinking.type != "enabled" or not _continues_turn(messages):
            return edited(request, changed=changed), tuple(names)
        names.append("thinking")
        if (edits := _without_clearing(request.value("context_management") or b"null")) is not None:
            changed["context_management"] = edits
            names.append("context_management.clear_thinking")
    except (*MALFORMED_JSON, TooManyValues):
        return None
    return edited(request, without={"thinking"}, changed=changed), tuple(names)


def _messages_without_thinking(value: bytes) -> list[msgspec.Raw] | None:
    """Return the messages without thinking blocks; `None` if there are none, or nothing valid would remain."""
    kept: list[msgspec.Raw] = []
    changed = False
    for item in parse_list(value):
        blocks = _blocks_without_thinking(item)
        changed = changed or blocks is not None
        if blocks is None:
            kept.append(item)
        elif blocks:
            kept.append(msgspec.Raw(encode({**parse_object(item), "content": blocks})))
        elif kept and _decode_message(kept[-1]).role == "system":
            return None  # a system message must be followed by an assistant message
    return kept if changed and kept else None


def _blocks_without_thinking(item: msgspec.Raw) -> list[msgspec.Raw] | None:
    """Return the blocks of an assistant message that are not thinking; `None` if no block is."""
    if _IN_BODY not in bytes(item):
        return None
    message = _decode_message(item)
    if message.role != "assistant" or first_byte(message.content) != b"[":
        return None
    return _without_types(message.content, _BLOCKS)


def _without_types(value: msgspec.Raw, types: re.Pattern[str]) -> list[msgspec.Raw] | None:
    """Return the items of a list whose type does not match; `None` if none does."""
    items = parse_list(value)
    kept = [item for item in items if not (is_object(item) and types.fullmatch(type_of(item)))]
    return kept if len(kept) < len(items) else None


def _continues_turn(messages: Sequence[msgspec.Raw]) -> bool:
    """Return whether the last assistant message belongs to the turn that the reply continues.

    It is the last message, or results of its tools follow.
    """
    following = list(takewhile(lambda item: _decode_message(item).role != "assistant", reversed(messages)))
    return not following or any(_RESULT in bytes(item) for item in following)


def _without_clearing(value: bytes) -> bytes | None:
    """Return a context management without the edits that need thinking; `None` if it has none."""
    fields = parse_object(value) if value != b"null" else {}
    edits = fields.get("edits")
    kept = None if edits is None or first_byte(edits) != b"[" else _without_types(edits, _EDITS)
    return None if kept is None else encode({**fields, "edits": kept})

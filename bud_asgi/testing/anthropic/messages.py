"""The grammar of the service's answers: a Message as one JSON object, or as the events of a stream.

Shapes follow the vendor's pages "Messages" and "Streaming Messages". Nothing here does I/O or knows of a connection.
"""

from __future__ import annotations

import json
import random
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import msgspec

_TOKEN = re.compile(r" ?\w{1,7}|[^\w\s]|\s")
_ALPHABET = "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"

PING = b'event: ping\ndata: {"type": "ping"}\n\n'
"""The service's ping: a space after the colon, and no padding."""


class TextBlock(msgspec.Struct, frozen=True, tag="text"):
    """A text block; it streams token by token."""

    text: str


class ThinkingBlock(msgspec.Struct, frozen=True, tag="thinking"):
    """A thinking block. With `thinking=""` its display is omitted: the signature is its only delta."""

    thinking: str
    signature: str | None = None
    """`None` for one made from the seed."""


class ToolUseBlock(msgspec.Struct, frozen=True, tag="tool_use"):
    """A call of one of the caller's tools. `id` is made from the seed if `None`."""

    name: str
    input: Mapping[str, Any]
    id: str | None = None


Block = TextBlock | ThinkingBlock | ToolUseBlock


class Usage(msgspec.Struct, frozen=True):
    """The token counts of a reply. `None` is counted from the request (input) or from the blocks (output)."""

    input_tokens: int | None = None
    output_tokens: int | None = None
    cache_creation_input_tokens: int = 0
    cache_read_input_tokens: int = 0


class Content(msgspec.Struct, frozen=True):
    """What the model says: the blocks of one Message, and why it stopped.

    `stop_reason` of `None` is `tool_use` if a block calls a tool, else `end_turn`.
    """

    blocks: tuple[Block, ...]
    stop_reason: str | None = None
    stop_sequence: str | None = None
    usage: Usage = Usage()


class Asked(msgspec.Struct, frozen=True):
    """What of a request shapes the answer to it."""

    model: str
    stream: bool
    input_tokens: int
    request_id: str
    seed: str
    """Everything random (ids, padding, cuts of partial JSON) comes from it."""
    infix: str = ""
    """What a platform puts into ids: `_vrtx` makes `msg_vrtx_01...`."""


def tokens_of(text: str) -> list[str]:
    """Cut a text the way this stand-in counts and streams it; joined, the parts are the text."""
    return _TOKEN.findall(text)


def made_id(prefix: str, seed: str) -> str:
    """An id like the service's (`msg_01...`), the same for the same seed."""
    return f"{prefix}_01" + "".join(_rng(f"{prefix}:{seed}").choices(_ALPHABET, k=22))


def message_json(content: Content, asked: Asked) -> bytes:
    """The whole Message, as the body of a reply that doesn't stream."""
    usage = _usage(content, asked, _output_tokens(content)) | _details(content)
    message = _message(content, asked, [_whole(b, n, asked) for n, b in enumerate(content.blocks)], usage)
    return _dump(message)


def message_events(content: Content, asked: Asked) -> Iterator[bytes]:
    """The same Message as a stream ("Streaming Messages"): each item is one whole event.

    A ping stands after the first `content_block_start`, data lines are padded by 0 to 15 spaces, usage is cumulative.
    """
    rng = _rng(asked.seed)
    yield event("message_start", {"message": _start(content, asked)}, rng)
    if not content.blocks:
        yield PING
    for index, block in enumerate(content.blocks):
        opened, deltas = _streamed(block, index, asked, rng)
        yield event("content_block_start", {"index": index, "content_block": opened}, rng)
        if index == 0:
            yield PING
        for delta in deltas:
            yield event("content_block_delta", {"index": index, "delta": delta}, rng)
        yield event("content_block_stop", {"index": index}, rng)
    yield event("message_delta", _final(content, asked), rng)
    yield event("message_stop", {}, rng)


def event(name: str, data: Mapping[str, Any], rng: random.Random | None = None) -> bytes:
    """One SSE event as the service writes it; `type` comes first. With `rng`, its data line is padded."""
    body = _dump({"type": name, **data})
    padding = b" " * rng.randrange(16) if rng else b""
    return b"event: %b\ndata: %b%b}\n\n" % (name.encode(), body[:-1], padding)


def error_object(kind: str, message: str, details: Mapping[str, Any] | None, request_id: str) -> dict[str, Any]:
    """The error envelope ("Errors"), for a body as for an `error` event."""
    error: dict[str, Any] = {"type": kind, "message": message}
    if details is not None:
        error["details"] = dict(details)
    return {"type": "error", "error": error, "request_id": request_id}


def error_json(kind: str, message: str, details: Mapping[str, Any] | None, request_id: str) -> bytes:
    """The error envelope as the body of a reply."""
    return _dump(error_object(kind, message, details, request_id))


def _dump(value: Mapping[str, Any]) -> bytes:
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode("utf-8", "replace")


def _rng(seed: str) -> random.Random:
    return random.Random(seed)  # noqa: S311 (repeatable on purpose, protects nothing)


def _message(content: Content, asked: Asked, blocks: Sequence[Any], usage: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "model": asked.model,
        "id": made_id(f"msg{asked.infix}", asked.seed),
        "type": "message",
        "role": "assistant",
        "content": blocks,
        "stop_reason": _stop_reason(content),
        "stop_sequence": content.stop_sequence,
        "stop_details": None,
        "usage": usage,
    }


def _start(content: Content, asked: Asked) -> dict[str, Any]:
    usage = _usage(content, asked, min(1, _output_tokens(content)))
    return _message(content, asked, [], usage) | {"stop_reason": None, "stop_sequence": None}


def _final(content: Content, asked: Asked) -> dict[str, Any]:
    usage = _usage(content, asked, _output_tokens(content))
    cumulative = ("input_tokens", "cache_creation_input_tokens", "cache_read_input_tokens", "output_tokens")
    delta = {"stop_reason": _stop_reason(content), "stop_sequence": content.stop_sequence, "stop_details": None}
    return {"delta": delta, "usage": {name: usage[name] for name in cumulative} | _details(content)}


def _usage(content: Content, asked: Asked, output_tokens: int) -> dict[str, Any]:
    given = content.usage
    created = given.cache_creation_input_tokens
    return {
        "input_tokens": asked.input_tokens if given.input_tokens is None else given.input_tokens,
        "cache_creation_input_tokens": created,
        "cache_read_input_tokens": given.cache_read_input_tokens,
        "cache_creation": {"ephemeral_5m_input_tokens": created, "ephemeral_1h_input_tokens": 0},
        "output_tokens": output_tokens,
        "service_tier": "standard",
        "inference_geo": "global",
    }


def _stop_reason(content: Content) -> str:
    calls = any(isinstance(block, ToolUseBlock) for block in content.blocks)
    return content.stop_reason or ("tool_use" if calls else "end_turn")


def _output_tokens(content: Content) -> int:
    if content.usage.output_tokens is not None:
        return content.usage.output_tokens
    return sum(len(tokens_of(_text_of(block))) for block in content.blocks)


def _details(content: Content) -> dict[str, Any]:
    counted = sum(len(tokens_of(b.thinking)) for b in content.blocks if isinstance(b, ThinkingBlock))
    return {"output_tokens_details": {"thinking_tokens": min(counted, _output_tokens(content))}}


def _text_of(block: Block) -> str:
    match block:
        case TextBlock():
            return block.text
        case ThinkingBlock():
            return block.thinking
        case ToolUseBlock():
            return block.name + json.dumps(dict(block.input))


def _whole(block: Block, index: int, asked: Asked) -> dict[str, Any]:
    match block:
        case TextBlock():
            return {"type": "text", "text": block.text}
        case ThinkingBlock():
            return {"type": "thinking", "thinking": block.thinking, "signature": _signature(block, index, asked)}
        case ToolUseBlock():
            called = block.id or made_id(f"toolu{asked.infix}", f"{asked.seed}:{index}")
            return {"type": "tool_use", "id": called, "name": block.name, "input": dict(block.input)}


def _signature(block: ThinkingBlock, index: int, asked: Asked) -> str:
    if block.signature is not None:
        return block.signature
    return "Eq" + "".join(_rng(f"signature:{asked.seed}:{index}").choices(_ALPHABET, k=190)) + "=="


def _streamed(
    block: Block, index: int, asked: Asked, rng: random.Random
) -> tuple[dict[str, Any], Iterator[dict[str, Any]]]:
    """What `content_block_start` shows of a block, and its deltas."""
    whole = _whole(block, index, asked)
    match block:
        case TextBlock():
            return {"type": "text", "text": ""}, _text_deltas(block.text)
        case ThinkingBlock():
            opened = {"type": "thinking", "thinking": "", "signature": ""}
            return opened, _thinking_deltas(block.thinking, whole["signature"])
        case ToolUseBlock():
            return {**whole, "input": {}}, _input_deltas(block.input, rng)


def _text_deltas(text: str) -> Iterator[dict[str, Any]]:
    for token in tokens_of(text):
        yield {"type": "text_delta", "text": token}


def _thinking_deltas(thinking: str, signature: str) -> Iterator[dict[str, Any]]:
    for token in tokens_of(thinking):
        yield {"type": "thinking_delta", "thinking": token}
    yield {"type": "signature_delta", "signature": signature}


def _input_deltas(given: Mapping[str, Any], rng: random.Random) -> Iterator[dict[str, Any]]:
    """Partial JSON in fragments of any size; the first is empty, and the only one where the input is empty."""
    yield {"type": "input_json_delta", "partial_json": ""}
    written = json.dumps(dict(given), ensure_ascii=False) if given else ""
    while written:
        size = rng.randint(1, 12)
        yield {"type": "input_json_delta", "partial_json": written[:size]}
        written = written[size:]

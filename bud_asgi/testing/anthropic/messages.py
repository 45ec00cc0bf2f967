"""Encodes replies in the format of the service: a Message as one JSON object, or as the events of a stream.

Formats follow the vendor's pages "Messages" and "Streaming Messages". Nothing here does I/O.
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

_NONCE = 168  # characters of a signature that are random

PING = b'event: ping\ndata: {"type": "ping"}\n\n'
"""The service's ping event. Unlike the others it has a space after the colon, and no padding."""


class TextBlock(msgspec.Struct, frozen=True, tag="text"):
    """A text block. It is streamed token by token."""

    text: str


class ThinkingBlock(msgspec.Struct, frozen=True, tag="thinking"):
    """A thinking block. With `thinking=""` (display omitted) the signature is its only delta."""

    thinking: str
    signature: str | None = None
    """`None`: made from the seed."""


class ToolUseBlock(msgspec.Struct, frozen=True, tag="tool_use"):
    """A call of one of the client's tools. An `id` of `None` is made from the seed."""

    name: str
    input: Mapping[str, Any]
    id: str | None = None


Block = TextBlock | ThinkingBlock | ToolUseBlock


class Usage(msgspec.Struct, frozen=True):
    """The token counts of a reply. `None`: counted from the request (input) or the blocks (output)."""

    input_tokens: int | None = None
    output_tokens: int | None = None
    cache_creation_input_tokens: int = 0
    cache_read_input_tokens: int = 0


class Content(msgspec.Struct, frozen=True):
    """The content of one Message, and why the model stopped.

    A `stop_reason` of `None` becomes `tool_use` if a block calls a tool, else `end_turn`.
    """

    blocks: tuple[Block, ...]
    stop_reason: str | None = None
    stop_sequence: str | None = None
    usage: Usage = Usage()


class ParsedRequest(msgspec.Struct, frozen=True):
    """What a reply depends on: fields of the request, its ids, and a seed."""

    model: str
    stream: bool
    input_tokens: int
    request_id: str
    seed: str
    """Everything random comes from it: ids, padding, the fragments of partial JSON."""
    id_infix: str = ""
    """What a platform inserts into ids: `_vrtx` makes `msg_vrtx_01...`."""
    signer: str = ""
    """Whose signature is on thinking blocks."""


def split_tokens(text: str) -> list[str]:
    """Split a text into tokens, as the stand-in counts and streams them. Joined, they are the text."""
    return _TOKEN.findall(text)


def make_id(prefix: str, seed: str) -> str:
    """Make an id like the service's (`msg_01...`), the same for the same seed."""
    return f"{prefix}_01" + "".join(_rng(f"{prefix}:{seed}").choices(_ALPHABET, k=22))


def make_signature(signer: str, seed: str) -> str:
    """Make the signature of a thinking block, which `is_signed_by` recognises."""
    nonce = "".join(_rng(seed).choices(_ALPHABET, k=_NONCE))
    return f"Eq{nonce}{_proof(signer, nonce)}=="


def is_signed_by(signature: str, signer: str) -> bool:
    """Return whether this signer has made the signature of a thinking block."""
    return signature[2 + _NONCE : -2] == _proof(signer, signature[2 : 2 + _NONCE])


def _proof(signer: str, nonce: str) -> str:
    return "".join(_rng(f"{signer} signed {nonce}").choices(_ALPHABET, k=22))


def message_json(content: Content, request: ParsedRequest) -> bytes:
    """Encode the Message as the body of a reply that does not stream."""
    usage = _usage(content, request, _output_tokens(content)) | _details(content)
    message = _message(content, request, [_complete_block(b, n, request) for n, b in enumerate(content.blocks)], usage)
    return _dump(message)


def message_events(content: Content, request: ParsedRequest) -> Iterator[bytes]:
    """Encode the Message as a stream ("Streaming Messages"); yields one event at a time.

    A ping follows the first `content_block_start`, data lines are padded by 0 to 15 spaces, usage is cumulative.
    """
    rng = _rng(request.seed)
    yield event("message_start", {"message": _start(content, request)}, rng)
    if not content.blocks:
        yield PING
    for index, block in enumerate(content.blocks):
        start, deltas = _stream_block(block, index, request, rng)
        yield event("content_block_start", {"index": index, "content_block": start}, rng)
        if index == 0:
            yield PING
        for delta in deltas:
            yield event("content_block_delta", {"index": index, "delta": delta}, rng)
        yield event("content_block_stop", {"index": index}, rng)
    yield event("message_delta", _final(content, request), rng)
    yield event("message_stop", {}, rng)


def event(name: str, data: Mapping[str, Any], rng: random.Random | None = None) -> bytes:
    """Encode one SSE event; `type` comes first in its data. With `rng`, its data line is padded."""
    body = _dump({"type": name, **data})
    padding = b" " * rng.randrange(16) if rng else b""
    return b"event: %b\ndata: %b%b}\n\n" % (name.encode(), body[:-1], padding)


def error_object(kind: str, message: str, details: Mapping[str, Any] | None, request_id: str) -> dict[str, Any]:
    """Build the error envelope ("Errors"), for a body or an `error` event."""
    error: dict[str, Any] = {"type": kind, "message": message}
    if details is not None:
        error["details"] = dict(details)
    return {"type": "error", "error": error, "request_id": request_id}


def error_json(kind: str, message: str, details: Mapping[str, Any] | None, request_id: str) -> bytes:
    """Encode the error envelope as the body of a reply."""
    return _dump(error_object(kind, message, details, request_id))


def _dump(value: Mapping[str, Any]) -> bytes:
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode("utf-8", "replace")


def _rng(seed: str) -> random.Random:
    return random.Random(seed)  # noqa: S311 (repeatable on purpose, not a secret)


def _message(
    content: Content, request: ParsedRequest, blocks: Sequence[Any], usage: Mapping[str, Any]
) -> dict[str, Any]:
    return {
        "model": request.model,
        "id": make_id(f"msg{request.id_infix}", request.seed),
        "type": "message",
        "role": "assistant",
        "content": blocks,
        "stop_reason": _stop_reason(content),
        "stop_sequence": content.stop_sequence,
        "stop_details": None,
        "usage": usage,
    }


def _start(content: Content, request: ParsedRequest) -> dict[str, Any]:
    usage = _usage(content, request, min(1, _output_tokens(content)))
    return _message(content, request, [], usage) | {"stop_reason": None, "stop_sequence": None}


def _final(content: Content, request: ParsedRequest) -> dict[str, Any]:
    usage = _usage(content, request, _output_tokens(content))
    cumulative = ("input_tokens", "cache_creation_input_tokens", "cache_read_input_tokens", "output_tokens")
    delta = {"stop_reason": _stop_reason(content), "stop_sequence": content.stop_sequence, "stop_details": None}
    return {"delta": delta, "usage": {name: usage[name] for name in cumulative} | _details(content)}


def _usage(content: Content, request: ParsedRequest, output_tokens: int) -> dict[str, Any]:
    usage = content.usage
    created = usage.cache_creation_input_tokens
    return {
        "input_tokens": request.input_tokens if usage.input_tokens is None else usage.input_tokens,
        "cache_creation_input_tokens": created,
        "cache_read_input_tokens": usage.cache_read_input_tokens,
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
    return sum(len(split_tokens(_text_of(block))) for block in content.blocks)


def _details(content: Content) -> dict[str, Any]:
    counted = sum(len(split_tokens(b.thinking)) for b in content.blocks if isinstance(b, ThinkingBlock))
    return {"output_tokens_details": {"thinking_tokens": min(counted, _output_tokens(content))}}


def _text_of(block: Block) -> str:
    match block:
        case TextBlock():
            return block.text
        case ThinkingBlock():
            return block.thinking
        case ToolUseBlock():
            return block.name + json.dumps(dict(block.input))


def _complete_block(block: Block, index: int, request: ParsedRequest) -> dict[str, Any]:
    match block:
        case TextBlock():
            return {"type": "text", "text": block.text}
        case ThinkingBlock():
            return {"type": "thinking", "thinking": block.thinking, "signature": _signature(block, index, request)}
        case ToolUseBlock():
            identity = block.id or make_id(f"toolu{request.id_infix}", f"{request.seed}:{index}")
            return {"type": "tool_use", "id": identity, "name": block.name, "input": dict(block.input)}


def _signature(block: ThinkingBlock, index: int, request: ParsedRequest) -> str:
    if block.signature is not None:
        return block.signature
    return make_signature(request.signer, f"signature:{request.seed}:{index}")


def _stream_block(
    block: Block, index: int, request: ParsedRequest, rng: random.Random
) -> tuple[dict[str, Any], Iterator[dict[str, Any]]]:
    """Return the block as `content_block_start` has it, and its deltas."""
    complete = _complete_block(block, index, request)
    match block:
        case TextBlock():
            return {"type": "text", "text": ""}, _text_deltas(block.text)
        case ThinkingBlock():
            start = {"type": "thinking", "thinking": "", "signature": ""}
            return start, _thinking_deltas(block.thinking, complete["signature"])
        case ToolUseBlock():
            return {**complete, "input": {}}, _input_deltas(block.input, rng)


def _text_deltas(text: str) -> Iterator[dict[str, Any]]:
    for token in split_tokens(text):
        yield {"type": "text_delta", "text": token}


def _thinking_deltas(thinking: str, signature: str) -> Iterator[dict[str, Any]]:
    for token in split_tokens(thinking):
        yield {"type": "thinking_delta", "thinking": token}
    yield {"type": "signature_delta", "signature": signature}


def _input_deltas(value: Mapping[str, Any], rng: random.Random) -> Iterator[dict[str, Any]]:
    """Partial JSON in fragments of random size. The first is empty, and the only one if the input is empty."""
    yield {"type": "input_json_delta", "partial_json": ""}
    remaining = json.dumps(dict(value), ensure_ascii=False) if value else ""
    while remaining:
        size = rng.randint(1, 12)
        yield {"type": "input_json_delta", "partial_json": remaining[:size]}
        remaining = remaining[size:]

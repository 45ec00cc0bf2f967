"""Event streams for tests, and two readers that are independent of the one under test."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
from anthropic._streaming import SSEDecoder  # the SDK's own reader, which has no public name

from bud_asgi.protocol.usage import Usage

_FOLDER = os.environ.get("BUD_ASGI_RECORDED")
RECORDED: dict[str, bytes] = (
    {path.name: path.read_bytes() for path in sorted(Path(_FOLDER).glob("*.sse")) if path.is_file()} if _FOLDER else {}
)
"""Recorded streams, when the environment names a folder of them."""


def event(name: str, **data: object) -> bytes:
    """An event as the service writes it, its text unescaped."""
    text = json.dumps({"type": name, **data}, ensure_ascii=False)
    return f"event: {name}\ndata: {text}\n\n".encode()


def start(**usage: object) -> bytes:
    """A `message_start` with the given usage."""
    message = {"id": "msg_1", "type": "message", "role": "assistant", "content": [], "model": "m", "usage": usage}
    return event("message_start", message=message)


def delta(**usage: object) -> bytes:
    """A `message_delta` with the given usage."""
    return event("message_delta", delta={"stop_reason": "end_turn", "stop_sequence": None}, usage=usage)


def text(words: str) -> bytes:
    """A `content_block_delta` with text."""
    return event("content_block_delta", index=0, delta={"type": "text_delta", "text": words})


PING = event("ping")
STOP = event("message_stop")
ENVELOPE = b'{"type":"error","error":{"type":"api_error","message":"cut off"},"request_id":"req_1"}'
WHOLE = b"".join(
    [
        PING,
        start(input_tokens=12, output_tokens=1, cache_read_input_tokens=3),
        event("content_block_start", index=0, content_block={"type": "text", "text": ""}),
        text("héllo €"),
        PING,
        text("\u2028\u0085\x0b 😀 message_stop \ud7ff\u1000\U00010000\U0010ffff error"),
        event("content_block_stop", index=0),
        delta(output_tokens=42, input_tokens=None),
        STOP,
    ]
)
"""A complete stream, with UTF-8 sequences of every length and text that contains the names of events."""


def parse(stream: bytes, *, errors: str = "strict") -> list[tuple[str, str]]:
    """Parse a stream as specified in WHATWG HTML 9.2.6. Raises for invalid UTF-8."""
    events: list[tuple[str, str]] = []
    event_type, data = "", ""
    lines = re.split("\r\n|\r|\n", stream.decode("utf-8", errors))
    for line in lines[:-1]:
        if line == "":
            if data != "":
                events.append((event_type or "message", data.removesuffix("\n")))
            event_type, data = "", ""
        elif not line.startswith(":"):
            field, _, value = line.partition(":")
            value = value.removeprefix(" ")
            if field == "event":
                event_type = value
            elif field == "data":
                data += value + "\n"
    return events


def parse_as_the_sdk_does(stream: bytes) -> list[tuple[str | None, str]]:
    """Parse a stream with the official SDK."""
    return [(sse.event, sse.data) for sse in SSEDecoder().iter_bytes(iter([stream]))]


def usage_by_json(stream: bytes) -> Usage | None:
    """The usage reported in a stream, merged without the code under test, and without output before its final count."""
    reported: dict[str, Any] | None = None
    for name, data in parse(stream):
        if name not in {"message_start", "message_delta"}:
            continue
        read: dict[str, Any] = json.loads(data)
        usage: dict[str, Any] | None = (read["message"] if name == "message_start" else read).get("usage")
        if usage is not None:
            reported = _merged(reported or {}, usage, is_start=name == "message_start")
    if reported is None:
        return None
    return msgspec.convert({**reported, "estimated": "output_tokens" not in reported}, Usage)


def _merged(reported: dict[str, Any], usage: dict[str, Any], *, is_start: bool) -> dict[str, Any]:
    merged = dict(reported)
    for name in Usage.__struct_fields__:
        value = usage.get(name)
        if value is None or (is_start and name == "output_tokens"):
            continue
        cumulative = isinstance(value, int) and not usage.get("iterations")
        merged[name] = max(value, merged.get(name, 0)) if cumulative else value
    return merged


def without_estimate(usage: Usage | None) -> Usage | None:
    """A usage without its output, if that is an estimate."""
    return usage and (msgspec.structs.replace(usage, output_tokens=None) if usage.estimated else usage)


def cut(stream: bytes, size: int) -> Iterator[bytes]:
    """Cut a stream into chunks of a size."""
    return (stream[at : at + size] for at in range(0, len(stream), size))


def whole_events(wire: bytes) -> bytes:
    """The bytes up to the end of the last event that is whole, and the line ends behind it: they belong to no event."""
    end = 0
    for match in re.finditer(rb"(?>\r\n|\r|\n){2}", wire):
        end = match.end()
    rest = wire[end:]
    return wire[: end + len(rest) - len(rest.lstrip(b"\r\n"))]

"""Encodes the event stream of InvokeModelWithResponseStream: each event of a Message in a chunk of its own.

Sources: "InvokeModelWithResponseStream" (`ResponseStream`), "Amazon Event Stream Specification"; the metrics and the
padding as observed.
"""

from __future__ import annotations

import base64
import json
import random
import string
from collections.abc import Iterator, Mapping
from typing import Any

from bud_asgi.testing.anthropic.messages import PING, Content, ParsedRequest, message_events
from bud_asgi.testing.bedrock.frames import message
from bud_asgi.testing.server.replies import ErrorEvents, Failure

CONTENT_TYPE = "application/vnd.amazon.eventstream"
METRICS = "amazon-bedrock-invocationMetrics"

_FILLER = string.ascii_lowercase + string.ascii_uppercase + string.digits
_JSON = "application/json"
_EXCEPTIONS = {
    "api_error": "internalServerException",
    "invalid_request_error": "validationException",
    "overloaded_error": "serviceUnavailableException",
    "rate_limit_error": "throttlingException",
    "timeout_error": "modelTimeoutException",
}
"""The exceptions of the stream by the error types of the Messages API."""


def chunk(event: bytes, padding: int = 6) -> bytes:
    """Encode one event of a Message (JSON) as a chunk. `padding` is the length of its filler, up to 62."""
    return event_message("chunk", b'{"bytes":"%b","p":"%b"}' % (base64.b64encode(event), _FILLER[:padding].encode()))


def event_message(kind: str, payload: bytes) -> bytes:
    """Encode an event of any type."""
    return message({":event-type": kind, ":content-type": _JSON, ":message-type": "event"}, payload)


def exception_message(name: str, text: str, **extra: Any) -> bytes:
    """Encode an exception such as `throttlingException`. `extra` are other fields of its payload."""
    headers = {":exception-type": name, ":content-type": _JSON, ":message-type": "exception"}
    return message(headers, _dump({"message": text, **extra}))


def error_message(code: str, text: str) -> bytes:
    """Encode an error that is not in the service model."""
    return message({":message-type": "error", ":error-code": code, ":error-message": text})


def chunks(content: Content, request: ParsedRequest) -> Iterator[bytes]:
    """Encode a Message as chunks. The last one has the metrics of the invocation."""
    rng = random.Random(f"padding:{request.seed}")  # noqa: S311 (repeatable on purpose, not a secret)
    usage: dict[str, Any] = {}
    for sse_event in message_events(content, request):
        if sse_event == PING:
            continue
        event = _event_json(sse_event)
        data = json.loads(event)
        usage |= data.get("message", data).get("usage", {})
        if data["type"] == "message_stop":
            event = _dump({**data, METRICS: metrics(usage)})
        yield chunk(event, rng.randint(1, len(_FILLER)))


def metrics(usage: Mapping[str, Any]) -> dict[str, int]:
    """Build the metrics of an invocation with this usage. Latencies are in milliseconds."""
    fields = {
        "inputTokenCount": usage.get("input_tokens", 0),
        "outputTokenCount": usage.get("output_tokens", 0),
        "invocationLatency": 1798,
        "firstByteLatency": 507,
    }
    cached = {
        "cacheReadInputTokenCount": usage.get("cache_read_input_tokens", 0),
        "cacheWriteInputTokenCount": usage.get("cache_creation_input_tokens", 0),
    }
    return fields | {name: count for name, count in cached.items() if count}


def metrics_chunk(usage: Mapping[str, Any] | None = None) -> bytes:
    """Encode metrics as a chunk of their own."""
    return chunk(_dump({METRICS: metrics(usage or {"input_tokens": 10, "output_tokens": 15})}))


def text_delta(text: str) -> bytes:
    """Make the event of a text delta in the first block, as JSON."""
    return _dump({"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": text}})


def error_chunks(body: ErrorEvents, request: ParsedRequest) -> Iterator[bytes]:
    """Encode the first chunks of a Message, then an exception."""
    for n, encoded in enumerate(chunks(body.content, request)):
        if n == body.events:
            break
        yield encoded
    yield exception_for(body.failure)


def exception_for(failure: Failure) -> bytes:
    """Encode a failure as an exception. An error type of the Messages API becomes Bedrock's exception for it."""
    return exception_message(_EXCEPTIONS.get(failure.type, failure.type), failure.message, **(failure.details or {}))


def _event_json(event: bytes) -> bytes:
    """Return the data of an SSE event without its padding, which Bedrock does not have."""
    return event.partition(b"\ndata: ")[2].rstrip(b"\n")[:-1].rstrip(b" ") + b"}"


def _dump(value: Mapping[str, Any]) -> bytes:
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode("utf-8", "replace")

"""The event stream of InvokeModelWithResponseStream: the events of a Message, each in a message of its own.

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

from bud_asgi.testing.anthropic.messages import PING, Asked, Content, message_events
from bud_asgi.testing.bedrock.frames import message
from bud_asgi.testing.server.replies import ErrorEvents, Failure

CONTENT_TYPE = "application/vnd.amazon.eventstream"
METRICS = "amazon-bedrock-invocationMetrics"

_FILLER = string.ascii_lowercase + string.ascii_uppercase + string.digits
_JSON = "application/json"
_NAMES = {
    "api_error": "internalServerException",
    "invalid_request_error": "validationException",
    "overloaded_error": "serviceUnavailableException",
    "rate_limit_error": "throttlingException",
    "timeout_error": "modelTimeoutException",
}
"""The exceptions of the stream, by the error types of the Messages API."""


def chunk(event: bytes, padding: int = 6) -> bytes:
    """A chunk event: `event` is one event of a Message as JSON, `padding` how long its filler is (up to 62)."""
    return event_message("chunk", b'{"bytes":"%b","p":"%b"}' % (base64.b64encode(event), _FILLER[:padding].encode()))


def event_message(kind: str, payload: bytes) -> bytes:
    """A message of any event type."""
    return message({":event-type": kind, ":content-type": _JSON, ":message-type": "event"}, payload)


def exception_message(name: str, words: str, **more: Any) -> bytes:
    """A modelled exception, such as `throttlingException`; `more` are other fields of its payload."""
    headers = {":exception-type": name, ":content-type": _JSON, ":message-type": "exception"}
    return message(headers, _dump({"message": words, **more}))


def error_message(code: str, words: str) -> bytes:
    """An unmodelled error."""
    return message({":message-type": "error", ":error-code": code, ":error-message": words})


def chunks(content: Content, asked: Asked) -> Iterator[bytes]:
    """A Message as chunk events; the last tells the metrics of the invocation."""
    rng = random.Random(f"padding:{asked.seed}")  # noqa: S311 (repeatable on purpose, protects nothing)
    usage: dict[str, Any] = {}
    for written in message_events(content, asked):
        if written == PING:
            continue
        event = _json_of(written)
        data = json.loads(event)
        usage |= data.get("message", data).get("usage", {})
        if data["type"] == "message_stop":
            event = _dump({**data, METRICS: metrics(usage)})
        yield chunk(event, rng.randint(1, len(_FILLER)))


def metrics(usage: Mapping[str, Any]) -> dict[str, int]:
    """The metrics of an invocation with this usage. Latencies are in milliseconds."""
    told = {
        "inputTokenCount": usage.get("input_tokens", 0),
        "outputTokenCount": usage.get("output_tokens", 0),
        "invocationLatency": 1798,
        "firstByteLatency": 507,
    }
    cached = {
        "cacheReadInputTokenCount": usage.get("cache_read_input_tokens", 0),
        "cacheWriteInputTokenCount": usage.get("cache_creation_input_tokens", 0),
    }
    return told | {name: count for name, count in cached.items() if count}


def metrics_chunk(usage: Mapping[str, Any] | None = None) -> bytes:
    """Metrics in a chunk of their own."""
    return chunk(_dump({METRICS: metrics(usage or {"input_tokens": 10, "output_tokens": 15})}))


def text_delta(said: str) -> bytes:
    """The event of a text delta in the first block, as JSON."""
    return _dump({"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": said}})


def broken(body: ErrorEvents, asked: Asked) -> Iterator[bytes]:
    """The first chunks of a Message, and then an exception."""
    for n, made in enumerate(chunks(body.content, asked)):
        if n == body.events:
            break
        yield made
    yield exception_of(body.failure)


def exception_of(failure: Failure) -> bytes:
    """The exception for a failure: of its own name, or of the name that its Messages error type has here."""
    return exception_message(_NAMES.get(failure.type, failure.type), failure.message, **(failure.details or {}))


def _json_of(event: bytes) -> bytes:
    """The data of an SSE event, without the padding that Anthropic's own streams have there."""
    return event.partition(b"\ndata: ")[2].rstrip(b"\n")[:-1].rstrip(b" ") + b"}"


def _dump(value: Mapping[str, Any]) -> bytes:
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode("utf-8", "replace")

"""An AWS event stream from Bedrock, and the server-sent events it converts to."""

from __future__ import annotations

from bud_asgi.attempt import Attempt
from bud_asgi.protocol.sse import PING
from bud_asgi.providers.bedrock.errors import AwsError, translate
from bud_asgi.providers.bedrock.stream import EventsToSse
from bud_asgi.providers.errors import TranslatedUpstreamError
from bud_asgi.testing.bedrock.stream import chunk

START = b'{"type":"message_start","message":{"id":"msg_bdrk_1","usage":{"input_tokens":3,"output_tokens":1}}}'
DELTA = (
    b'{"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":"\xe2\x80\xa8 \\n \xf0\x9f\x98\x80"}}'
)
END = b'{"type":"message_delta","delta":{"stop_reason":"end_turn"},"usage":{"output_tokens":9}}'
STOP = b'{"type":"message_stop","amazon-bedrock-invocationMetrics":{"inputTokenCount":3,"outputTokenCount":9}}'
FRAMES = b"".join(chunk(event, n) for n, event in enumerate((START, DELTA, DELTA, END, STOP)))
SSE = (
    b"event: message_start\ndata: %b\n\n%b"
    b"event: content_block_delta\ndata: %b\n\n"
    b"event: content_block_delta\ndata: %b\n\n"
    b"event: message_delta\ndata: %b\n\n"
    b'event: message_stop\ndata: {"type":"message_stop"}\n\n'
) % (START, PING, DELTA, DELTA, END)


def codec(attempt: Attempt | None = None) -> EventsToSse:
    def translated(error: AwsError) -> TranslatedUpstreamError:
        return translate(error, "claude-opus-4-8")

    return EventsToSse("req_1", translated, attempt)


def corrupt(at: int) -> bytes:
    """Return a message with one bit of the byte at `at` flipped."""
    frame = bytearray(chunk(DELTA))
    frame[at] ^= 1
    return bytes(frame)

"""Codecs for Bedrock's replies: the AWS event stream to server-sent events, the token count to JSON. No I/O.

Sources: AWS, "InvokeModelWithResponseStream" (`ResponseStream`), "CountTokens"; vendor page "Streaming Messages".
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

import msgspec

from bud_asgi.attempt import Attempt
from bud_asgi.protocol.errors import error_body
from bud_asgi.protocol.guardrail import guardrail_action
from bud_asgi.protocol.malformed import MALFORMED_JSON
from bud_asgi.protocol.sse import ONE_LINE, PING, error_event
from bud_asgi.protocol.usage import Usage, read_usage
from bud_asgi.providers.bedrock.errors import AwsError, error_in_message
from bud_asgi.providers.bedrock.frames import EventStreamDecoder, EventStreamError, EventStreamHeaders
from bud_asgi.providers.errors import TranslatedUpstreamError

MAX_COUNT = 1 << 16
"""The largest reply of CountTokens, in bytes."""

_LF, _CR = b"\n\r"
_TYPE = b'{"type":"'
_DELTA = b'{"type":"content_block_delta"'
_BEFORE_DELTA = b"event: content_block_delta\ndata: "
_BETWEEN_DELTAS = b"\n\n" + _BEFORE_DELTA
_DATA_DELTA = b"\ndata: " + _DELTA
_NAMES = frozenset(
    {
        b"content_block_delta",
        b"content_block_start",
        b"content_block_stop",
        b"message_delta",
        b"message_start",
        b"message_stop",
    }
)
_STOP = b'event: message_stop\ndata: {"type":"message_stop"}\n\n'
_AWS = "amazon-bedrock-"
_AWS_SIGN = b'"amazon-bedrock-'
_METRICS = "amazon-bedrock-invocationMetrics"
_COUNTS = {
    "inputTokenCount": "input_tokens",
    "outputTokenCount": "output_tokens",
    "cacheReadInputTokenCount": "cache_read_input_tokens",
    "cacheWriteInputTokenCount": "cache_creation_input_tokens",
}
"""The counts of AWS's metrics, and their names in the Messages API."""

_NAME = re.compile(r"[!-~]{1,100}")


class _Chunk(msgspec.Struct, frozen=True, gc=False):
    data: bytes = msgspec.field(name="bytes")


class _Event(msgspec.Struct, frozen=True):
    type: str = ""


class _Count(msgspec.Struct, frozen=True, rename="camel"):
    input_tokens: int


class _Metrics(msgspec.Struct, frozen=True):
    """AWS's account of an invocation, whatever the type of its numbers."""

    metrics: Mapping[str, object] = msgspec.field(name="amazon-bedrock-invocationMetrics", default={})


_decode_chunk = msgspec.json.Decoder(_Chunk).decode
_decode_fields = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_decode_event = msgspec.json.Decoder(_Event).decode
_decode_metrics = msgspec.json.Decoder(_Metrics).decode
_decode_count = msgspec.json.Decoder(_Count).decode


class EventsToSse:
    """Converts the stream of InvokeModelWithResponseStream to that of the Messages API. A `Codec`.

    The JSON of each event is unchanged, except that AWS's metrics are left out, whether they come in `message_stop` or
    in a chunk of their own: their counts are noted in the `attempt`. AWS's other fields in such a chunk, a guardrail's
    verdict and its trace, become part of `message_stop`; the verdict is also noted in the `attempt`, even if it comes
    too late for that. An exception is passed through `translate` and becomes an `error` event with `request_id`.
    Nothing is written after the last event.
    """

    __slots__ = (
        "_attempt",
        "_decoder",
        "_ended",
        "_extra",
        "_request_id",
        "_stop",
        "_translate",
        "error",
        "upstream_error",
    )

    pending = False

    def __init__(
        self,
        request_id: str,
        translate: Callable[[AwsError], TranslatedUpstreamError],
        attempt: Attempt | None = None,
    ) -> None:
        self.error = ""
        self.upstream_error: TranslatedUpstreamError | None = None
        self._attempt = attempt
        self._decoder = EventStreamDecoder()
        self._ended = False
        self._extra: dict[str, msgspec.Raw] = {}
        self._stop: bytes | None = None
        self._request_id = request_id
        self._translate = translate

    def feed(self, data: bytes) -> bytes:
        """Return the events that the chunk completes."""
        if self.error:
            return b""
        try:
            messages = self._decoder.feed(data)
        except EventStreamError as error:
            messages = error.messages
            self.error = str(error)
        written: list[bytes] = []
        try:
            for one in messages:
                if one.headers.event_type == "chunk" and one.headers.message_type == "event":
                    self._write_chunks(one.payloads, written)
                else:
                    self._write_others(one.headers, one.payloads, written)
        except MALFORMED_JSON as error:
            self.error = f"an event is not valid JSON: {error}"
        if self._ended:
            self.error = ""
        if self._stop is not None:
            written.append(self._write_stop(self._stop))
            self._stop = None
        return b"".join(written)

    def finish(self) -> bytes:
        """Return nothing; a stream that ends inside a message is an `error`."""
        if not self._ended and not self.error:
            try:
                self._decoder.finish()
            except EventStreamError as error:
                self.error = str(error)
        return b""

    def _write_others(self, headers: EventStreamHeaders, payloads: list[bytes], written: list[bytes]) -> None:
        """Write the first error that is in messages other than chunks."""
        for payload in payloads:
            if not self._ended and (error := error_in_message(headers, payload)) is not None:
                self._ended = True
                self.upstream_error = self._translate(error)
                written.append(error_event(error_body(self.upstream_error, self._request_id)))

    def _write_chunks(self, chunks: list[bytes], written: list[bytes]) -> None:
        """Write the events in the payloads of chunks."""
        try:
            events = [_decode_chunk(chunk).data for chunk in chunks]
        except MALFORMED_JSON:
            for chunk in chunks:  # those before the invalid one are written
                self._write_event(_decode_chunk(chunk).data, written)
            raise
        if len(events) > 1 and not self._ended and (deltas := _deltas_together(events)):
            written.append(deltas)
        else:
            for event in events:
                self._write_event(event, written)

    def _write_event(self, event: bytes, written: list[bytes]) -> None:
        if _LF in event or _CR in event:
            event = event.translate(ONE_LINE)
        if event.startswith(_DELTA) and not self._ended:  # most events of a stream
            written += (_BEFORE_DELTA, event, b"\n\n")
            return
        name = event[9 : event.find(b'"', 9)] if event.startswith(_TYPE) else b""
        if name not in _NAMES:
            name = _name_of(event)
        if _AWS_SIGN in event:
            self._note(name, event)
        if not name:
            self._extra |= _aws_fields(event)
        elif self._ended:
            return
        elif name == b"message_stop":
            self._ended = True
            self._stop = event
        else:
            self._ended = name == b"error"
            written += (b"event: ", name, b"\ndata: ", event, b"\n\n", PING if name == b"message_start" else b"")

    def _note(self, name: bytes, event: bytes) -> None:
        """Note a guardrail's verdict and the counts of AWS's metrics in the attempt."""
        if self._attempt is None:
            return
        self._attempt.note_guardrail(guardrail_action(event))
        if name in {b"message_stop", b""} and (usage := _usage_of_metrics(event)) is not None:
            self._attempt.metered = usage

    def _write_stop(self, stop: bytes) -> bytes:
        """Write `message_stop` with the fields of the chunks without a type, also of those that arrived with it."""
        try:
            fields = {**_decode_fields(stop), **self._extra}
        except MALFORMED_JSON:
            return _STOP
        fields.pop(_METRICS, None)
        return b"event: message_stop\ndata: " + msgspec.json.encode(fields) + b"\n\n"


def _deltas_together(events: list[bytes]) -> bytes:
    """Write events that are all `content_block_delta`, each on one line; empty if one of them is not."""
    joined = b"".join(events)
    if _LF in joined or _CR in joined:
        return b""
    text = _BEFORE_DELTA + _BETWEEN_DELTAS.join(events) + b"\n\n"
    return text if text.count(_DATA_DELTA) == len(events) else b""


def _aws_fields(event: bytes) -> dict[str, msgspec.Raw]:
    return {name: value for name, value in _decode_fields(event).items() if name.startswith(_AWS) and name != _METRICS}


def _usage_of_metrics(event: bytes) -> Usage | None:
    """The counts of AWS's metrics; `None` if there are none, or they can't be read."""
    try:
        metrics = _decode_metrics(event).metrics
    except MALFORMED_JSON:
        return None
    if not metrics:
        return None
    return read_usage(msgspec.json.encode({ours: metrics[name] for name, ours in _COUNTS.items() if name in metrics}))


def _name_of(event: bytes) -> bytes:
    """Return the type of an event by parsing it; empty if it has none. For unknown events and unusual formatting."""
    name = _decode_event(event).type
    if name and not _NAME.fullmatch(name):
        raise msgspec.DecodeError(f"invalid event type {name[:100]!a}")
    return name.encode()


class CountToJson:
    """Converts the reply of CountTokens to that of `count_tokens`. A `Codec`."""

    __slots__ = ("_read", "error")

    pending = False

    def __init__(self) -> None:
        self.error = ""
        self._read = bytearray()

    def feed(self, data: bytes) -> bytes:
        """Return nothing yet."""
        self._read += data
        if len(self._read) > MAX_COUNT:
            self.error = f"a token count of more than {MAX_COUNT} bytes"
            self._read.clear()
        return b""

    def finish(self) -> bytes:
        """Return the token count."""
        try:
            return msgspec.json.encode({"input_tokens": _decode_count(self._read).input_tokens})
        except MALFORMED_JSON as error:
            self.error = f"not a token count: {error}"
            return b""

"""Server-sent events (WHATWG HTML, "Server-sent events"; vendor page "Streaming Messages"): whole events only.

A stream is relayed byte for byte, cut at the end of the last whole event. An unfinished event waits for its rest, so
an event of our own fits behind whatever was relayed, and a stream that breaks off never leaves half an event. Lines
end with LF, CRLF or CR, never at the other line breaks of Unicode.
"""

from __future__ import annotations

import re
from enum import IntEnum

import msgspec

from bud_asgi.protocol.estimate import OutputEstimate, is_delta
from bud_asgi.protocol.malformed import MALFORMED_JSON
from bud_asgi.protocol.usage import Usage, usage_of_message, usage_of_start

PING = b'event: ping\ndata: {"type": "ping"}\n\n'
"""A ping as the service writes it."""

STREAM_HEADERS = (
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache"),
    (b"x-accel-buffering", b"no"),
)
"""The headers of a stream, as the service writes them; the last one stops proxies from buffering events."""

ONE_LINE = bytes.maketrans(b"\r\n", b"  ")
"""For `bytes.translate`: puts JSON on one line. Line ends can only stand between its tokens."""

MAX_EVENT = 4 << 20
"""The largest event that is held until it is whole, in bytes. A larger one is relayed as it arrives, unread."""

MAX_NOTED = 64 << 10
"""The longest data of an event that is kept until its stream has ended, in bytes."""

_END_OF_EVENT = re.compile(rb"(?>\r\n|\r|\n){2}")
_LAST_END_OF_EVENT = re.compile(rb".*" + _END_OF_EVENT.pattern, re.DOTALL)
_PLAIN_EVENT = re.compile(rb"(?:event: ?([^\n]*+)\n)?data: ?([^\n]*+)\n\n")
_CR = 13  # a byte is found in bytes faster as a number
_SEAM = 2  # bytes: the longest line end, and so the most of an end of event that can precede its last byte


class StreamState(IntEnum):
    """How far a stream has come. The last three are final: all that its upstream had to send has arrived."""

    WAITING = 0
    """Nothing but pings has arrived."""
    OPEN = 1
    """An event other than a ping has arrived."""
    COMPLETE = 2
    """`message_stop` has arrived: the message is whole."""
    FAILED = 3
    """An `error` event ended a stream that had begun."""
    REFUSED = 4
    """An `error` event was the first event: an error, not a reply."""


_WAITING, _OPEN, _COMPLETE, _FAILED, _REFUSED = StreamState  # members are looked up slowly


class Event(msgspec.Struct, frozen=True):
    """One event: its name (`b""` where it has none) and its data."""

    name: bytes
    data: bytes


class EventStream(msgspec.Struct, eq=False, kw_only=True, gc=False):
    """One upstream stream: bytes in, whole events out, and what accounting needs to know of them. No I/O.

    `state` is a `StreamState`, and `ended` is true once it is final: after `message_stop` or an `error` event. `error`
    is the data of the first `error` event, `content` is true once an event other than a ping, an error and
    `message_start` has arrived, `reported` the usage in the events so far, merged by the cumulative rule. `start` is
    the data of `message_start`, `delta` that of the last `message_delta`; `b""` before, and if it has more than
    `max_noted` bytes.
    `partial` is true while an event of more than `max_event` bytes passes through: only then do the bytes that were
    returned end inside an event.

    What an event is follows its data's `type`, as in the official SDKs; its name counts if there is none, and an event
    named `error` is an error in any case.
    """

    max_event: int = MAX_EVENT
    max_noted: int = MAX_NOTED
    state: StreamState = _WAITING
    ended: bool = False
    content: bool = False
    partial: bool = False
    error: bytes | None = None
    start: bytes = b""
    delta: bytes = b""
    reported: Usage | None = None
    _held: bytearray = bytearray()
    _output: OutputEstimate = msgspec.field(default_factory=OutputEstimate)
    _placeholder: int = 0
    _final: float | None = None
    _partial_delta: bool = False

    def __repr__(self) -> str:
        """Leave out the events: they contain user data."""
        return f"EventStream(state={self.state.name})"

    @property
    def usage(self) -> Usage | None:
        """What the message has cost so far; `None` before it has begun.

        The output is an estimate unless a `message_delta` has counted all content: the count in `message_start` is a
        placeholder.
        """
        if self.reported is None and not self._output.size:
            return None
        usage = self.reported or Usage()
        if self._final == self._output.size:
            return usage
        output = max(self._placeholder, usage.output_tokens or 0, self._output.tokens)
        return msgspec.structs.replace(usage, output_tokens=output, estimated=True)

    def feed(self, chunk: bytes) -> bytes:
        """Take in bytes as they arrive; return the events that they complete, byte for byte."""
        if not self._held:
            if self._output.add_single(chunk):
                return chunk
            if chunk.endswith(b"\n\n") and _CR not in chunk:
                self._observe(chunk)
                return chunk
        if self.partial:
            return self._feed_partial(chunk)
        events = self._complete(chunk)
        lines = _with_line_feeds(events)
        if not self._output.add_single(lines):
            self._observe(lines)
        return events + self._begin_partial() if len(self._held) > self.max_event else events

    def _complete(self, chunk: bytes) -> bytes:
        """What is held and a chunk, up to the end of the last whole event; the rest is held."""
        held = self._held
        if not held and not chunk.strip(b"\r\n"):
            return chunk  # the LF of a CRLF that was cut, or blank lines: they belong to no event
        end = _end_of_last_event(bytes(held[-_SEAM:]), chunk)
        if end:
            self._held = bytearray(chunk[end:])
            return b"".join((held, chunk[:end])) if held else chunk[:end]
        held += chunk
        return b""

    def _begin_partial(self) -> bytes:
        """Let go of what is held, the beginning of an oversized event; only its name is read."""
        beginning = bytes(self._held)
        self.partial = self.content = True
        self._partial_delta = is_delta(beginning)
        self._add_partial(len(beginning))
        del self._held[:-_SEAM]
        if event := parse_event(beginning):
            self._observe_event(beginning, 0, event.name, event.data)
        return beginning

    def _feed_partial(self, chunk: bytes) -> bytes:
        """Pass an oversized event through, up to its end; what follows is held again."""
        seam = bytes(self._held)
        end = _END_OF_EVENT.search(seam + chunk)
        if end is None:
            self._held = bytearray((seam + chunk)[-_SEAM:])
            self._add_partial(len(chunk))
            return chunk
        self.partial = False
        self._held.clear()
        rest = end.end() - len(seam)
        self._add_partial(rest)
        if self.state is _WAITING:
            self.state = _OPEN
        return chunk[:rest] + self.feed(chunk[rest:])

    def _add_partial(self, size: int) -> None:
        if self._partial_delta:
            self._output.add_bytes(size)

    def _observe(self, events: bytes) -> None:
        """Read events whose lines end with LF: runs of similar deltas in few steps, all others one by one."""
        at = self._output.add_run(events, 0)
        while at < len(events):
            if match := _PLAIN_EVENT.match(events, at):
                end, begins_run = match.end(), self._observe_event(events, at, match[1] or b"", match[2])
            else:
                end, begins_run = events.find(b"\n\n", at) + 2, False
                end = end if end > 1 else len(events)
                if event := parse_event(events[at:end]):
                    begins_run = self._observe_event(events, at, event.name, event.data)
            at = self._output.add_run(events, end) if begins_run else end

    def _observe_event(self, events: bytes, at: int, name: bytes, data: bytes) -> bool:
        """Read one event; return whether it is a delta that similar ones may follow."""
        kind = name if name == b"error" else _type_of(data) or name
        if kind == b"ping":
            return False
        if kind == b"error":
            if self.error is None:
                self.error = data
            if not self.ended:
                self._end(_REFUSED if self.state is _WAITING else _FAILED)
            return False
        if self.state is _WAITING:
            self.state = _OPEN
        if kind == b"message_start":
            self._observe_start(data)
            return False
        self.content = True
        if kind == b"content_block_delta":
            if self._output.begin_run(events, at):
                return True
            self._output.add_content(data)
        elif kind == b"content_block_start":
            self._output.add_content(data)
        elif kind == b"message_delta":
            self._observe_delta(data)
        elif kind == b"message_stop" and not self.ended:
            self._end(_COMPLETE)
        return False

    def _observe_start(self, data: bytes) -> None:
        self.start = data if len(data) <= self.max_noted else b""
        usage = usage_of_start(data)
        if usage is not None:
            self._placeholder = usage.output_tokens or 0
            self._report(msgspec.structs.replace(usage, output_tokens=None))

    def _observe_delta(self, data: bytes) -> None:
        self.delta = data if len(data) <= self.max_noted else b""
        usage = usage_of_message(data)
        if usage is not None:
            self._report(usage)
            if usage.output_tokens is not None:
                self._final = self._output.size

    def _end(self, state: StreamState) -> None:
        self.state = state
        self.ended = True

    def _report(self, usage: Usage) -> None:
        self.reported = usage if self.reported is None else self.reported.updated(usage)


def error_event(body: bytes) -> bytes:
    """An `error` event whose data is an error object, put on one line if it has several."""
    return b"event: error\ndata: " + body.translate(ONE_LINE) + b"\n\n"


def parse_event(block: bytes) -> Event | None:
    """Parse the lines of one event; `None` for a block without data: comments and blank lines."""
    name = b""
    data: list[bytes] = []
    for line in _with_line_feeds(block).split(b"\n"):
        field, _, value = line.partition(b":")
        if field == b"event":
            name = value.removeprefix(b" ")
        elif field == b"data":
            data.append(value.removeprefix(b" "))
    return Event(name, b"\n".join(data)) if data else None


def split_events(events: bytes) -> list[bytes]:
    """Split whole events into single ones, byte for byte; each includes the blank line that ends it."""
    ends = [match.end() for match in _END_OF_EVENT.finditer(events)]
    starts = [0, *ends]
    return [events[start:end] for start, end in zip(starts, [*ends, len(events)], strict=True) if start < end]


def is_error_event(event: bytes) -> bool:
    """Whether one event is an `error` event."""
    parsed = parse_event(event)
    return parsed is not None and (parsed.name or _type_of(parsed.data)) == b"error"


class _Typed(msgspec.Struct, frozen=True):
    type: str = ""


_decode_typed = msgspec.json.Decoder(_Typed).decode


def _type_of(data: bytes) -> bytes:
    """The `type` of an event's data; `b""` if it has none."""
    try:
        return _decode_typed(data).type.encode()
    except (*MALFORMED_JSON, UnicodeEncodeError):
        return b""


def _with_line_feeds(text: bytes) -> bytes:
    """A text with LF for any end of line."""
    return text.replace(b"\r\n", b"\n").replace(b"\r", b"\n") if _CR in text else text


def _end_of_last_event(seam: bytes, chunk: bytes) -> int:
    """How many bytes of a chunk, behind a seam without an end of event, belong to whole events; 0 if none is whole."""
    if _CR not in chunk and _CR not in seam:
        end = chunk.rfind(b"\n\n") + 2
        return end if end > 1 else int(seam[-1:] == b"\n" and chunk[:1] == b"\n")
    match = _LAST_END_OF_EVENT.match(seam + chunk)
    return max(0, match.end() - len(seam)) if match else 0

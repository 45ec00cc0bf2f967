"""Event streams (WHATWG HTML, "Server-sent events"; vendor page "Streaming Messages"): observed, and mended when cut.

The bytes of a stream are relayed as they come; what is here looks at them from the side. Lines end where SSE says (LF,
CRLF, CR), never at the other line breaks of Unicode.
"""

from __future__ import annotations

import re

import msgspec

from bud_asgi.protocol.usage import Usage, usage_of_message, usage_of_start

PING = b'event: ping\ndata: {"type": "ping"}\n\n'
"""A ping as the service writes it."""

STREAM_HEADERS = (
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache"),
    (b"x-accel-buffering", b"no"),
)
"""The headers of a stream, as the service writes them; the last keeps a proxy from holding events back."""

ONE_LINE = bytes.maketrans(b"\r\n", b"  ")
"""For `bytes.translate`: puts JSON on one line. Line ends can only stand between its tokens."""

MAX_EVENT = 4 << 20
"""The largest event that is looked into, in bytes. A larger one is relayed like any other, but not read."""

_END_OF_EVENT = re.compile(rb"(?>\r\n|\r|\n){2}")
_END_OF_LINE = re.compile(rb"\r\n|\r|\n")
_LONGEST_END = 3  # bytes of an end of event that may stand in front of its last one
_LONGEST_RARE = 8  # bytes of the longest name that `_is_rare` looks for


def error_event(body: bytes) -> bytes:
    """An `error` event whose data is an envelope, put on one line if it came on several."""
    return b"event: error\ndata: " + body.translate(ONE_LINE) + b"\n\n"


class Event(msgspec.Struct, frozen=True):
    """One event: its name (`message` where none is given) and its data."""

    name: bytes
    data: bytes


class EventReader:
    """Splits a byte stream into the events that accounting needs: chunks of any size in, whole events out.

    While `rare_only` is set it looks for the rare ones alone (`message_*`, `error`): a chunk without them costs a
    search, not a parse. With `rare_once_begun` that is from the first event on that is not a ping. Events past
    `max_event` bytes are passed over. No I/O, no JSON.
    """

    __slots__ = ("_max_event", "_parse", "_passing_over", "_pending", "_rare_once_begun", "rare_only")

    def __init__(self, *, max_event: int = MAX_EVENT, rare_once_begun: bool = False) -> None:
        self._max_event = max_event
        self._rare_once_begun = rare_once_begun
        self._pending = bytearray()
        self._passing_over = False
        self._parse = True
        self.rare_only = False

    @property
    def between_events(self) -> bool:
        """Whether the bytes so far end with a whole event: only here may an event of our own be written."""
        return not self._pending.lstrip(b"\n")  # an LF may be the rest of a CRLF that a cut had parted

    @property
    def unfinished(self) -> bytes:
        """The last bytes of the event that has begun and not ended."""
        return bytes(self._pending[-4:])

    def feed(self, chunk: bytes) -> list[Event]:
        """Take in a chunk and return the events that it completes."""
        pending = self._pending
        if self.rare_only and chunk.endswith(b"\n\n") and not (self._parse or pending or _is_rare(chunk, 0)):
            return []
        begun = len(pending)
        pending += chunk
        resume = max(0, begun - _LONGEST_END)
        if self._passing_over:
            return self._pass_over(resume)
        self._parse = self._parse or not self.rare_only or _is_rare(pending, max(0, begun - _LONGEST_RARE))
        if not self._parse:
            if taken := pending.rfind(b"\n\n", resume) + 1:
                del pending[: taken + 1]
            events: list[Event] = []
        else:
            events = self._split(resume)
            self._parse = _is_rare(pending, 0)
        if len(pending) > self._max_event:
            del pending[:-_LONGEST_END]
            self._passing_over = True
        return events

    def _split(self, resume: int) -> list[Event]:
        pending = self._pending
        events: list[Event] = []
        taken = 0
        for end in _END_OF_EVENT.finditer(pending, resume):
            event = _parse_event(bytes(pending[taken : end.start()]))
            taken = end.end()
            if event is None:
                continue
            events.append(event)
            if self._rare_once_begun and not self.rare_only and event.name != b"ping":
                self.rare_only = True
                if not _is_rare(pending, taken):
                    taken = max(taken, pending.rfind(b"\n\n", taken) + 2)
                    break
        del pending[:taken]
        return events

    def _pass_over(self, resume: int) -> list[Event]:
        end = _END_OF_EVENT.search(self._pending, resume)
        if end is None:
            del self._pending[:-_LONGEST_END]
            return []
        self._passing_over = False
        self._parse = True
        rest = bytes(self._pending[end.end() :])
        self._pending.clear()
        return self.feed(rest)


class StreamObserver:
    """What accounting and the relay must know of one stream. Feed it every chunk, in order.

    `begun`: an event that is not a ping has come. `finished`: `message_stop` has, the stream is whole. `error`: the
    data of the first `error` event, with which the stream ends. `refused`: that came before anything else, so the
    stream is a refusal, not an answer. `ended`: `message_stop` or an `error` has come, all is said. `usage`: what was
    told so far, merged by the cumulative rule.
    """

    __slots__ = ("_reader", "begun", "ended", "error", "finished", "refused", "usage")

    def __init__(self) -> None:
        self._reader = EventReader(rare_once_begun=True)
        self.begun = self.ended = self.finished = self.refused = False
        self.error: bytes | None = None
        self.usage: Usage | None = None

    @property
    def between_events(self) -> bool:
        """Whether an event of our own may be written here."""
        return self._reader.between_events

    def feed(self, chunk: bytes) -> None:
        """Look at a chunk that is being relayed."""
        for event in self._reader.feed(chunk):
            self._see(event)

    def failure(self, body: bytes) -> bytes:
        """What to write so that a stream cut at this point ends with an `error` event whose data is `body`.

        A half event can't be taken back. Its last character and line are ended; then its name becomes `error` (the
        last one counts) and the envelope stands on a `data:` line of its own, so that every SDK raises.
        """
        unfinished = self._reader.unfinished
        mend = b""
        if unfinished and unfinished[-1:] not in b"\r\n":
            mend = _rest_of_character(unfinished) + b"\n"
        return mend + error_event(body)

    def _see(self, event: Event) -> None:
        if event.name == b"ping":
            return
        self.refused = self.refused or (event.name == b"error" and not self.begun)
        self.begun = True
        if event.name == b"message_start":
            self.usage = usage_of_start(event.data)
        elif event.name == b"message_delta":
            if later := usage_of_message(event.data):
                self.usage = (self.usage or Usage()).updated(later)
        elif event.name == b"message_stop":
            self.finished = self.ended = True
        elif event.name == b"error" and self.error is None:
            self.error = event.data
            self.ended = True


def _is_rare(text: bytes | bytearray, start: int) -> bool:
    # Backwards, because that skips by the first letters of these words, which are rarer in streams than the last.
    return text.rfind(b"message_", start) >= 0 or text.rfind(b"error", start) >= 0 or text.find(b"\r", start) >= 0


def _parse_event(block: bytes) -> Event | None:
    name = b"message"
    data: list[bytes] = []
    for line in _END_OF_LINE.split(block):
        field, _, value = line.partition(b":")
        if field == b"event":
            name = value.removeprefix(b" ") or b"message"
        elif field == b"data":
            data.append(value.removeprefix(b" "))
    return Event(name, b"\n".join(data)) if data else None


def _rest_of_character(tail: bytes) -> bytes:
    """The bytes that make a UTF-8 sequence at the end of `tail` whole; none if it ends with a whole character."""
    for back in range(1, min(3, len(tail)) + 1):
        lead = tail[-back]
        if lead >= 0xC0:
            missing = (2 if lead < 0xE0 else 3 if lead < 0xF0 else 4) - back
            # the second byte of these sequences is bound to a smaller range (RFC 3629, 4)
            second = {0xE0: b"\xa0", 0xF0: b"\x90"}.get(lead, b"\x80") if back == 1 else b""
            return (second + b"\x80" * missing)[:missing] if missing > 0 else b""
        if lead < 0x80:
            break
    return b""

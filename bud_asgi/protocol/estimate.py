"""An estimate of what a message has cost, for one that ended before its final count arrived.

The ratios were fitted to recorded replies of the service, whose final counts are known.
"""

from __future__ import annotations

import re

import msgspec

from bud_asgi.protocol.malformed import MALFORMED_JSON
from bud_asgi.protocol.usage import Usage

_BYTES_PER_TOKEN = 3.6
_TOKENS_PER_BLOCK = {"text": 3, "thinking": 3, "tool_use": 35, "server_tool_use": 35, "mcp_tool_use": 35}
_SHOWN = frozenset({"text", "text_delta", "thinking", "thinking_delta", "input_json_delta"})
_SIGNATURE_HEAD = 260  # bytes of a signature that do not depend on the length of the thinking
_SIGNATURE_PER_TOKEN = 5.4  # bytes
_MANY = 100  # events: the service pads each by 0 to 15 bytes, and the mean of so many is fair
_CR = ord("\r")
_MEASURED = 14 << 10  # bytes of a search in which the deltas are measured one by one, until there were `_MANY`
_MIN_SPAN, _FIRST_SPAN = 2 << 10, 64 << 10  # bytes that are searched at once for similar deltas
_NO_RUN = b"\0no run"  # no event begins so
_MIN_FILE = 2000  # bytes: shorter strings are text, not base64
_MOST_FILES = 1000  # keys that are examined: a hostile body has millions. The service takes some hundred files
_SAMPLES = 16  # in each body: a file that is a larger part of it contains one
_SAMPLE = 200  # bytes
_TOKENS_PER_FILE = 1500  # an image has up to 1,600 (vendor page "Vision"), a page of a PDF 1,500 to 3,000

_FILE = re.compile(rb'"data"\s*:\s*"([A-Za-z0-9+/\\]{200})')
_BASE64 = re.compile(rb"[A-Za-z0-9+/\\]+")
_DELTA = re.compile(
    rb'((?:event: ?content_block_delta\n)?data: ?\{"type": ?"content_block_delta", ?"index": ?\d+, ?'
    rb'"delta": ?\{"type": ?"(?:text|thinking|input_json)_delta", ?"(?:text|thinking|partial_json)": ?")'
    rb'((?:[^"\\\n]++|\\.)*+)"[ }]*\n\n'
)
_TAIL = re.compile(rb'"[ }]*+\n')  # what follows the content of a delta, without the empty line
_DELTA_HEAD = re.compile(_DELTA.pattern[: _DELTA.pattern.index(rb"((?:[^")])


class _Content(msgspec.Struct, frozen=True):
    """A block or delta of any kind: its text, and what stands for thinking that is not shown."""

    type: str = ""
    text: object = None
    thinking: object = None
    partial_json: object = None
    signature: object = None
    data: object = None


class _ContentEvent(msgspec.Struct, frozen=True):
    """A `content_block_start` or `content_block_delta` event."""

    content_block: _Content | None = None
    delta: _Content | None = None


_decode_event = msgspec.json.Decoder(_ContentEvent).decode


class OutputEstimate(msgspec.Struct, eq=False, gc=False):
    """Estimates the output tokens of a stream from the content in its events.

    Deltas of one block begin alike, so only the first of them is parsed. Where they arrive alone they are measured one
    by one; many in one chunk count by their size, less what usually stands around the content.

    Text, thinking and tool input count by their bytes; thinking that is hidden or summarised by the length of its
    signature. Results of server tools and citations are no output.
    """

    _content: float = 0.0
    """Bytes of content."""
    _tokens: float = 0.0
    """Tokens that do not depend on `_content`."""
    _block_began_at: float = 0.0
    _head: bytes = _NO_RUN
    """What precedes the content in the events of the current run."""
    _span: int = _FIRST_SPAN
    """Bytes that are searched at once: more after similar deltas, fewer after other events among them."""
    _tails: int = 0
    """Bytes behind the content of some deltas."""
    _tails_seen: int = 0

    @property
    def size(self) -> float:
        """How much was added, as a number that only grows."""
        return self._content + self._tokens

    @property
    def tokens(self) -> int:
        """The estimate for everything that was added."""
        return round(self._content / _BYTES_PER_TOKEN + self._tokens)

    def add_single(self, event: bytes) -> bool:
        """Add a whole event if it is a delta like the latest one; return whether it is one. This is the common case."""
        rest = event.removeprefix(self._head)
        if rest is event:  # it begins otherwise
            return False
        line, _, end = rest.partition(b"\n")
        if end != b"\n" or _CR in line:
            return False
        content, quote, _ = line.rpartition(b'"')
        self._content += len(content)
        return quote != b""

    def add_run(self, events: bytes, at: int) -> int:
        """Add the deltas like the latest one that begin at an offset of whole events; return the offset behind them.

        Lines end with LF. What follows a head up to the end of its line is taken for the rest of a valid delta.
        """
        while at < len(events) and events.startswith(self._head, at):
            size = self._add_like(events, at, at + self._span)
            if size:
                self._span = max(self._span, 2 * size)
            else:
                self._span = max(_MIN_SPAN, self._span // 2)
                size = self._add_like(events, at, at)
                if not size:
                    break
            at += size
        return at

    def _add_like(self, events: bytes, at: int, limit: int) -> int:
        """Add the events from one like the latest delta to the last such before a limit; return their size.

        If other events are among them, nothing is added, and 0 returned. The number of line feeds shows it: an event
        that begins like the latest delta has no fewer.
        """
        head = b"\n\n" + self._head
        last = events.rfind(head, at, limit)
        if last < 0:
            end = events.find(b"\n\n", at + len(self._head)) + 2
        else:
            end = max(last, events.find(b"\n\n", last + len(head), limit)) + 2
        count = 1 + events.count(head, at, end)
        if events.count(b"\n", at, end) != count * head.count(b"\n"):
            return 0
        if self._tails_seen < _MANY:
            tails = _TAIL.findall(events, at, min(end, at + _MEASURED))
            self._tails += sum(map(len, tails)) + len(tails)
            self._tails_seen += len(tails)
        tail = self._tails / max(1, self._tails_seen)
        self._content += max(0.0, end - at - count * (len(self._head) + tail))
        return end - at

    def begin_run(self, events: bytes, at: int) -> bool:
        """Add a delta that deltas like it may follow; return whether it is one."""
        match = _DELTA.match(events, at)
        if match is None:
            return False
        self._head = match[1]
        self._content += len(match[2])
        return True

    def add_content(self, data: bytes) -> None:
        """Add a `content_block_start` or `content_block_delta` event by its data."""
        try:
            event = _decode_event(data)
        except MALFORMED_JSON:
            return
        if event.content_block is not None:
            self._block_began_at = self._content
            self._tokens += _TOKENS_PER_BLOCK.get(event.content_block.type, 0)
        content = event.content_block or event.delta
        if content is None:
            return
        if content.type in _SHOWN:
            self._content += _size(content.text) + _size(content.thinking) + _size(content.partial_json)
        hidden = _size(content.data if content.type == "redacted_thinking" else content.signature)
        if hidden:
            shown = (self._content - self._block_began_at) / _BYTES_PER_TOKEN
            self._tokens += max(0.0, (hidden - _SIGNATURE_HEAD) / _SIGNATURE_PER_TOKEN - shown)

    def add_bytes(self, size: int) -> None:
        """Add content by its size alone."""
        self._content += size


def estimated_input(body: bytes) -> Usage:
    """The usage of a request that was sent and whose reply never came: the input by the size of its body.

    The output stays unknown. A file in base64 counts as a fixed number of tokens: its size says little of its price.
    """
    size, files, examined = len(body), 0, 0
    at = body.find(b'"data"')
    while at >= 0 and examined < _MOST_FILES:
        examined += 1
        match = _FILE.match(body, at)
        end = at + 1 if match is None else body.find(b'"', match.end())
        if match is not None and end - match.start(1) >= _MIN_FILE:
            size -= end - match.start(1)
            files += 1
        at = body.find(b'"data"', end) if end > at else -1
    return Usage(input_tokens=round(size / _BYTES_PER_TOKEN) + files * _TOKENS_PER_FILE, estimated=True)


def may_have_files(body: bytes) -> bool:
    """Whether files in base64 may be a large part of a body. Looks at samples: to search all of it takes long."""
    step = len(body) // _SAMPLES
    if step < _SAMPLE:
        return False
    return any(_BASE64.fullmatch(body, at, at + _SAMPLE) for at in range(step // 2, len(body) - _SAMPLE, step))


def is_delta(beginning: bytes) -> bool:
    """Whether an event whose end has not arrived is a delta of text, thinking or tool input."""
    return _DELTA_HEAD.match(beginning) is not None


def _size(text: object) -> int:
    return len(text.encode()) if text and isinstance(text, str) else 0

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
_MIN_TAILS = 64  # events: the service pads each by 0 to 15 bytes, so that many give a fair mean
_NO_RUN = b"\0no run"  # no event begins so
_MIN_FILE = 2000  # bytes: shorter strings are text, not base64
_TOKENS_PER_FILE = 1500  # an image has up to 1,600 (vendor page "Vision"), a page of a PDF 1,500 to 3,000

_FILE = re.compile(rb'"data"\s*:\s*"([A-Za-z0-9+/\\]{200})')
_DELTA = re.compile(
    rb'((?:event: ?content_block_delta\n)?data: ?\{"type": ?"content_block_delta", ?"index": ?\d+, ?'
    rb'"delta": ?\{"type": ?"(?:text|thinking|input_json)_delta", ?"(?:text|thinking|partial_json)": ?")'
    rb'((?:[^"\\\n]++|\\.)*+)"[ }]*\n\n'
)
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


class OutputEstimate:
    """Estimates the output tokens of a stream from the content in its events. No event of a long run is parsed.

    Text, thinking and tool input count by their bytes; thinking that is hidden or summarised by the length of its
    signature. Results of server tools and citations are no output.
    """

    __slots__ = (
        "_block_began_at",
        "_content",
        "_head",
        "_lines",
        "_mark",
        "_overhead",
        "_tails",
        "_tails_seen",
        "_tokens",
    )

    def __init__(self) -> None:
        self._content = 0.0  # bytes
        self._tokens = 0.0  # those that don't depend on `_content`
        self._block_began_at = 0.0
        self._head = _NO_RUN  # what precedes the content in the events of the current run
        self._mark = _NO_RUN  # the end of the head, with quotes that cannot stand within a string of JSON
        self._lines = 0
        self._overhead = 0.0
        self._tails = 0
        self._tails_seen = 0

    @property
    def size(self) -> float:
        """How much was added, as a number that only grows."""
        return self._content + self._tokens

    @property
    def tokens(self) -> int:
        """The estimate for everything that was added."""
        return round(self._content / _BYTES_PER_TOKEN + self._tokens)

    def add_run(self, events: bytes) -> bool:
        """Add whole events if all of them are deltas like the latest one; return whether they were."""
        head = self._head
        if not events.startswith(head):
            return False
        if events.find(b"\n", len(head)) == len(events) - 2:  # a single event, the common case
            self._content += events.rfind(b'"') - len(head)
            return True
        count = events.count(self._mark)
        if self._tails_seen < _MIN_TAILS or events.count(b"\n") != count * self._lines:
            return False
        self._content += len(events) - count * self._overhead
        return True

    def add_event(self, event: bytes, data: bytes) -> None:
        """Add a `content_block_start` or `content_block_delta` event: the whole of it, and its data."""
        if match := _DELTA.fullmatch(event):
            self._begin_run(match[1], len(match[0]) - match.end(2))
            self._content += len(match[2])
            return
        try:
            parsed = _decode_event(data)
        except MALFORMED_JSON:
            return
        if parsed.content_block is not None:
            self._block_began_at = self._content
            self._tokens += _TOKENS_PER_BLOCK.get(parsed.content_block.type, 0)
            self._add_content(parsed.content_block)
        elif parsed.delta is not None:
            self._add_content(parsed.delta)

    def add_bytes(self, size: int) -> None:
        """Add content by its size alone."""
        self._content += size

    def _begin_run(self, head: bytes, tail: int) -> None:
        """Learn how much of an event is not content: the head, and the mean of the tails."""
        self._tails += tail
        self._tails_seen += 1
        self._head = head
        self._mark = head[head.rfind(b"_delta") :]
        self._lines = head.count(b"\n") + 2
        self._overhead = len(head) + self._tails / self._tails_seen

    def _add_content(self, content: _Content) -> None:
        if content.type in _SHOWN:
            self._content += _size(content.text) + _size(content.thinking) + _size(content.partial_json)
        hidden = _size(content.data if content.type == "redacted_thinking" else content.signature)
        if hidden:
            shown = (self._content - self._block_began_at) / _BYTES_PER_TOKEN
            self._tokens += max(0.0, (hidden - _SIGNATURE_HEAD) / _SIGNATURE_PER_TOKEN - shown)


def estimated_input(body: bytes) -> Usage:
    """The usage of a request that was sent and whose reply never came: the input by the size of its body.

    The output stays unknown. A file in base64 counts as a fixed number of tokens: its size says little of its price.
    """
    size, files = len(body), 0
    at = body.find(b'"data"')
    while at >= 0:
        match = _FILE.match(body, at)
        end = at + 1 if match is None else body.find(b'"', match.end())
        if match is not None and end - match.start(1) >= _MIN_FILE:
            size -= end - match.start(1)
            files += 1
        at = body.find(b'"data"', end) if end > at else -1
    return Usage(input_tokens=round(size / _BYTES_PER_TOKEN) + files * _TOKENS_PER_FILE, estimated=True)


def is_delta(beginning: bytes) -> bool:
    """Whether an event whose end has not arrived is a delta of text, thinking or tool input."""
    return _DELTA_HEAD.match(beginning) is not None


def _size(text: object) -> int:
    return len(text.encode()) if isinstance(text, str) else 0

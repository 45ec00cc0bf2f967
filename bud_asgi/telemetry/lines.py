"""Log lines that are collected and written together, without ever waiting for who reads them."""

from __future__ import annotations

import asyncio
import logging
import os
import select
import stat
import sys
import time
from typing import TextIO

from bud_asgi.telemetry.access_fields import AccessLine, encode_lines
from bud_asgi.telemetry.formatters import JsonFormatter

_EVERY = 0.25
"""Seconds that a line may wait for others."""

_TOGETHER = 16
"""Lines of requests that are encoded together, which costs less than one by one."""

_BATCH = 64 << 10
"""Bytes of lines that are written without waiting for further ones."""

_MAX_HELD = 1 << 20
"""Bytes of lines that are held while the stream accepts none. Further lines are dropped."""

_LAST_WAIT = 1.0
"""Seconds that `flush` waits for a stream that accepts nothing."""

_REPORT_EVERY = 10.0

_log = logging.getLogger("bud_asgi")


class LineHandler(logging.Handler):
    """Collects lines, and writes them to a stream every quarter of a second, at 64 KB, and on `flush`.

    The event loop never waits for a full pipe: up to 1 MB of lines is held then, and further ones are dropped. Lines
    for a stream that is closed are dropped too. How many is logged to `bud_asgi`. A pipe gets whole lines in writes of
    at most `PIPE_BUF` bytes, so that those of several processes do not mix. Without a stream the lines go to stderr.

    For use in the thread of one event loop. What is logged outside of it is written at once. The lines are JSON unless
    another formatter is set.
    """

    def __init__(self, stream: TextIO | None) -> None:
        super().__init__()
        self.setFormatter(JsonFormatter())
        self._descriptor = (stream or sys.stderr).fileno()
        self._is_file = stat.S_ISREG(os.fstat(self._descriptor).st_mode)
        self._most = _MAX_HELD if self._is_file else getattr(select, "PIPE_BUF", 512)
        self._access_lines: list[AccessLine] = []
        self._lines: list[bytes] = []
        self._size = self._dropped = 0
        self._report_at = 0.0
        self._timer: asyncio.TimerHandle | None = None

    def emit(self, record: logging.LogRecord) -> None:
        """Add the line of a record."""
        self._encode_lines()
        self.add(self.format(record).encode("utf-8", "backslashreplace"))

    def add_access_line(self, line: AccessLine) -> None:
        """Add the line of a request. It is encoded together with others."""
        self._access_lines.append(line)
        if self._timer is None:
            self._wait_for_more()
        if len(self._access_lines) >= _TOGETHER or self._timer is None:
            self._encode_lines()

    def add(self, line: bytes) -> None:
        """Add a line, or several with line ends between them; the last one has none."""
        self._lines.append(line)
        size = self._size = self._size + len(line) + 1
        if self._timer is None:
            self._wait_for_more()
        if size < _BATCH and self._timer is not None:
            return
        if size > _MAX_HELD:
            self._lines.pop()
            self._size -= len(line) + 1
            self._dropped += 1 + line.count(b"\n")
        elif size < 2 * _BATCH or self._timer is None:  # beyond, the stream accepts nothing before the next tick
            self._write(0.0)

    def flush(self) -> None:
        """Write all lines. Waits for at most a second if the stream accepts nothing."""
        self._encode_lines()
        self._write(_LAST_WAIT)
        self._report(0.0)

    def _encode_lines(self) -> None:
        if self._access_lines:
            lines = encode_lines(self._access_lines)
            self._access_lines.clear()
            for piece in (lines,) if self._is_file else lines.split(b"\n"):
                self.add(piece)

    def _wait_for_more(self) -> None:
        try:
            self._timer = asyncio.get_running_loop().call_later(_EVERY, self._on_timer)
        except RuntimeError:  # outside of a loop
            self._timer = None

    def _on_timer(self) -> None:
        self._encode_lines()  # before the timer is cleared, or else this would start a second one
        self._timer = None
        self._write(0.0)
        self._report(_REPORT_EVERY)
        if self._lines or self._dropped:
            self._wait_for_more()

    def _write(self, patience: float) -> None:
        deadline = time.monotonic() + patience
        while self._lines and _accepts(self._descriptor, deadline - time.monotonic()):
            piece = self._take()
            try:
                written = os.write(self._descriptor, piece[: self._most])
            except BlockingIOError:
                written = 0
            except OSError:  # closed, or the disk is full
                self._dropped += piece.count(b"\n") + sum(1 + line.count(b"\n") for line in self._lines)
                self._lines.clear()
                self._size = 0
                return
            if written < len(piece):
                self._lines.insert(0, piece[written:-1])
                self._size += len(piece) - written
            if not written:
                return

    def _take(self) -> bytes:
        """Remove the lines that fit into one write, or the first of them, and return them."""
        count, size = 1, len(self._lines[0]) + 1
        for line in self._lines[1:]:
            if size + len(line) >= self._most:
                break
            count, size = count + 1, size + len(line) + 1
        piece = b"\n".join(self._lines[:count]) + b"\n"
        del self._lines[:count]
        self._size -= size
        return piece

    def _report(self, every: float) -> None:
        """Log how many lines were dropped, at most once in `every` seconds."""
        now = time.monotonic()
        if self._dropped and now >= self._report_at + every:
            _log.warning("dropped %d log lines: the stream is full or closed", self._dropped)
            self._report_at, self._dropped = now, 0


def _accepts(descriptor: int, patience: float) -> bool:
    """Whether a write of `PIPE_BUF` bytes returns at once, after at most so many seconds."""
    if not hasattr(select, "poll"):  # on Windows a write may wait
        return True
    poll = select.poll()
    poll.register(descriptor, select.POLLOUT)
    return bool(poll.poll(max(0.0, patience) * 1000))

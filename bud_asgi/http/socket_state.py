"""What the operating system is set to do with a connection's socket, and what it knows about it."""

from __future__ import annotations

import array
import contextlib
import select
import socket
import sys
from collections.abc import Callable
from functools import partial

PROBE_AFTER = 60
"""Seconds without traffic after which TCP probes the peer, and seconds between probes, as the vendor's SDKs do."""

PROBES = 5
"""Unanswered probes after which the connection counts as lost."""

_PROBE_OPTIONS = (
    ("TCP_KEEPIDLE", PROBE_AFTER),
    ("TCP_KEEPALIVE", PROBE_AFTER),  # its name on macOS
    ("TCP_KEEPINTVL", PROBE_AFTER),
    ("TCP_KEEPCNT", PROBES),
)


def set_options(connected: socket.socket) -> None:
    """Send small writes at once; probe a silent peer, because middleboxes drop flows that are silent for minutes."""
    connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    connected.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in _PROBE_OPTIONS:
        option: int | None = getattr(socket, name, None)
        if option is not None:
            with contextlib.suppress(OSError):  # the platform's own times apply
                connected.setsockopt(socket.IPPROTO_TCP, option, value)


def unread_check(connected: socket.socket) -> Callable[[], object]:
    """Return a function whose result is true if the socket has bytes to read, or has ended. It never blocks."""
    if not hasattr(select, "poll"):  # Windows, and some libraries that replace the module's functions

        def peek() -> bool:
            try:
                connected.recv(1, socket.MSG_PEEK)
            except BlockingIOError:
                return False
            except OSError:
                return True
            return True

        return peek
    poll = select.poll()
    poll.register(connected, select.POLLIN)
    return partial(poll.poll, 0)


if sys.platform == "linux":
    import fcntl
    import termios

    def unacknowledged(connected: socket.socket, count: array.array[int]) -> int:
        """The number of bytes that the peer's TCP has not acknowledged; 0 where the platform does not report it.

        `count` is overwritten: an array of one C integer, so that no call makes a new one.
        """
        try:
            fcntl.ioctl(connected.fileno(), termios.TIOCOUTQ, count)
        except OSError:
            return 0
        return count[0]
else:

    def unacknowledged(connected: socket.socket, count: array.array[int]) -> int:
        """The number of bytes that the peer's TCP has not acknowledged; 0 where the platform does not report it."""
        return 0

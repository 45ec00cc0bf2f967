"""A connection's transport as uvicorn sees it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable


class ConnectionTransport:
    """The transport of a connection, except that `close` is decided by the connection: it may have to linger.

    uvicorn closes transports in many places. The methods of the true transport are attributes here, so that a write
    costs nothing more.
    """

    __slots__ = ("_closing", "close", "get_extra_info", "pause_reading", "resume_reading", "write")

    def __init__(self, transport: asyncio.Transport, close: Callable[[], None]) -> None:
        self._closing = False
        self.close = close
        self.write: Callable[[bytes], None] = transport.write
        self.get_extra_info = transport.get_extra_info
        self.pause_reading = transport.pause_reading
        self.resume_reading = transport.resume_reading

    def is_closing(self) -> bool:
        """Whether `close` has been called, or the connection is lost."""
        return self._closing

    def detach(self) -> None:
        """Ignore everything from now on: the connection is being closed, or is lost."""
        self._closing = True
        self.write = _ignore
        self.close = self.pause_reading = self.resume_reading = _nothing


def _ignore(_data: bytes) -> None:
    return


def _nothing() -> None:
    return

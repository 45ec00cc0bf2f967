"""What goes through a connection in both directions, and who waits for it."""

from __future__ import annotations

import asyncio


class Channel:
    """The transport of one connection with its flow control. It holds nothing for a task that does not wait.

    `held` is a head that waits for the first part of its body, so that both are one write, or a whole response that is
    about to be written. `write_paused` is true while the client reads more slowly than the app writes.
    """

    __slots__ = ("_loop", "held", "read_paused", "transport", "waiters", "write_paused")

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        self.transport = transport
        self.held = b""
        self.read_paused = self.write_paused = False
        self._loop = loop
        self.waiters: list[asyncio.Future[None]] = []

    def write(self, data: bytes) -> None:
        """Write the held head, if there is one, and `data`."""
        held, self.held = self.held, b""
        if held and data:  # from Python 3.12 on, asyncio tries for ever to send an empty item
            self.transport.writelines((held, data))
        elif held or data:
            self.transport.write(held or data)

    def write_soon(self, data: bytes) -> None:
        """Write the held head and `data` in the next iteration of the event loop, together with other responses.

        A write between two tasks costs more: it replaces what the processor's caches hold, and may wake another
        process.
        """
        self.held += data
        self._loop.call_soon(self.write_held)

    def write_held(self) -> None:
        """Write what is held, unless the connection is closed."""
        if self.held and not self.transport.is_closing():
            self.write(b"")

    def pause_reading(self) -> None:
        """Read nothing for now."""
        if not self.read_paused:
            self.read_paused = True
            self.transport.pause_reading()

    def resume_reading(self) -> None:
        """Read on."""
        if self.read_paused:
            self.read_paused = False
            self.transport.resume_reading()

    async def wait(self) -> None:
        """Wait until something may have changed: what has arrived, whether the client reads, whether it is there."""
        waiter = self._loop.create_future()
        self.waiters.append(waiter)
        try:
            await waiter
        finally:
            self.waiters.remove(waiter)

    def wake(self) -> None:
        """Let all that wait look again."""
        for waiter in self.waiters:
            if not waiter.done():
                waiter.set_result(None)

"""Notices that the stand-in's event loop is blocked while a client waits to connect."""

from __future__ import annotations

import asyncio
import json
import select
import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress

BLOCKED_AFTER = 10.0
"""Seconds without a step of the loop, while a client waits, after which the loop counts as blocked."""

_INTERVAL = 0.25
_MESSAGE = (
    "The event loop of this StandIn is blocked, so it cannot reply. Synchronous clients, such as Starlette's "
    "TestClient, need `with StandIn(...).in_thread()` instead of `async with StandIn(...)`."
)


class BlockedLoopWatchdog:
    """A thread that replies 500 to clients which a blocked loop keeps waiting, so that a test fails instead of hanging.

    `report` is called from that thread, once each time the loop is found blocked.
    """

    def __init__(self, listener: socket.socket, report: Callable[[Exception], None]) -> None:
        self._listener = listener.dup()
        self._listener.setblocking(False)
        self._report = report
        self._loop = asyncio.get_running_loop()
        self._stopped = threading.Event()
        self._called_at: float | None = None
        self._reported = False
        self._thread = threading.Thread(target=self._run, name="bud_asgi stand-in watchdog", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Stop the thread and close its copy of the listening socket, which would otherwise keep listening."""
        self._stopped.set()
        self._thread.join()
        self._listener.close()

    def _run(self) -> None:
        while not self._stopped.wait(_INTERVAL):
            if not select.select([self._listener], [], [], 0)[0]:
                continue
            called_at = self._called_at
            if called_at is None:
                self._called_at = time.monotonic()
                with suppress(RuntimeError):  # the loop is closed
                    self._loop.call_soon_threadsafe(self._on_loop_runs)
            elif time.monotonic() - called_at >= BLOCKED_AFTER:
                self._reply_blocked()

    def _on_loop_runs(self) -> None:
        self._called_at, self._reported = None, False

    def _reply_blocked(self) -> None:
        if not self._reported:
            self._reported = True
            self._report(RuntimeError(_MESSAGE))
        try:
            connection, _ = self._listener.accept()
        except OSError:
            return  # the loop accepted it first
        body = json.dumps({"type": "error", "error": {"type": "api_error", "message": _MESSAGE}}).encode()
        head = b"HTTP/1.1 500 Internal Server Error\r\ncontent-type: application/json\r\nconnection: close\r\n"
        with connection, suppress(OSError):
            connection.settimeout(1.0)
            connection.recv(1 << 20)  # closing with unread data would reset the connection
            connection.sendall(b"%bcontent-length: %d\r\n\r\n%b" % (head, len(body), body))

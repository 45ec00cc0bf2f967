"""Ports for servers in processes of their own, which cannot listen on port 0 and report what they got."""

from __future__ import annotations

import fcntl
import os
import random
import socket
import tempfile
from contextlib import suppress
from pathlib import Path

FIRST, END = 10_000, 20_000
"""Below the ports that systems hand out to clients. A Valkey cluster also takes the port 10,000 above its own."""

_locks = os.open(Path(tempfile.gettempdir(), f"bud-asgi-test-ports-{os.getuid()}"), os.O_RDWR | os.O_CREAT, 0o600)
_taken: set[int] = set()
_random = random.SystemRandom()  # Hypothesis seeds the other one


def free_port() -> int:
    """A TCP port that no socket uses, and that no other process gets from this function before this one has ended."""
    while True:
        port = _random.randrange(FIRST, END)
        if port not in _taken and _lock(port) and _can_be_bound(port):
            _taken.add(port)
            return port


def nowhere() -> str:
    """The URL of a server that is not there, as long as this process runs."""
    return f"http://127.0.0.1:{free_port()}"


def _lock(port: int) -> bool:
    """Lock one byte of the file; the system unlocks it when the process ends."""
    with suppress(BlockingIOError):
        fcntl.lockf(_locks, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, port)
        return True
    return False


def _can_be_bound(port: int) -> bool:
    with socket.socket() as one, suppress(OSError):
        one.bind(("127.0.0.1", port))
        return True
    return False

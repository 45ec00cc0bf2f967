"""Polling for a condition that a thread, a task or another process makes true."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from contextlib import closing
from http.client import HTTPConnection, HTTPException
from urllib.parse import urlsplit


def wait_until(condition: Callable[[], bool], what: str, timeout: float = 30.0) -> None:
    """Poll until the condition holds. Fails with `what` after `timeout` seconds."""
    deadline = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < deadline, f"not within {timeout} s: {what}"
        time.sleep(0.01)


def answers(url: str) -> bool:
    """Whether a server answers a GET of the `http` URL with 200."""
    parts = urlsplit(url)
    assert parts.hostname is not None
    with closing(HTTPConnection(parts.hostname, parts.port, timeout=30)) as connection:  # cheap: it is polled
        try:
            connection.request("GET", parts.path)
            return connection.getresponse().status == 200
        except (OSError, HTTPException):
            return False


async def until(condition: Callable[[], bool], timeout: float = 30.0) -> None:
    """Poll until the condition holds, without blocking the loop. Raises `TimeoutError` after `timeout` seconds."""
    async with asyncio.timeout(timeout):
        while not condition():  # noqa: ASYNC110 - what is waited for may happen in another thread
            await asyncio.sleep(0.01)


async def until_true(condition: Callable[[], Awaitable[bool]], timeout: float = 30.0) -> None:
    """Poll a condition that is awaited until it holds. Raises `TimeoutError` after `timeout` seconds."""
    async with asyncio.timeout(timeout):
        while not await condition():  # noqa: ASYNC110 - another process makes it true
            await asyncio.sleep(0.01)

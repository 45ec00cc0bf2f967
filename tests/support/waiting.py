"""Polling for a condition that a thread, a task or another process makes true."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from contextlib import closing
from http.client import HTTPConnection, HTTPException
from urllib.parse import urlsplit


def wait_until(condition: Callable[[], bool], what: str, timeout: float = 60.0) -> None:
    """Poll until the condition holds. Fails with `what` after `timeout` seconds."""
    deadline = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < deadline, f"not within {timeout} s: {what}"
        time.sleep(0.01)


def wait_still(figure: Callable[[], int], quiet: float = 0.5, timeout: float = 60.0) -> int:
    """Poll until a positive figure has not changed for `quiet` seconds; returns it. Fails after `timeout` seconds."""
    deadline, last, since = time.monotonic() + timeout, figure(), time.monotonic()
    while last <= 0 or time.monotonic() - since < quiet:
        assert time.monotonic() < deadline, f"still changing after {timeout} s: {last}"
        time.sleep(0.05)
        if (now := figure()) != last:
            last, since = now, time.monotonic()
    return last


async def until_still(figure: Callable[[], int], quiet: float = 0.3) -> int:
    """The same as `wait_still`, without blocking the loop."""
    async with asyncio.timeout(60.0):
        last, unchanged = figure(), 0
        while last <= 0 or unchanged < quiet / 0.05:
            await asyncio.sleep(0.05)
            last, unchanged = (last, unchanged + 1) if figure() == last else (figure(), 0)
        return last


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


async def until(condition: Callable[[], bool], timeout: float = 60.0) -> None:
    """Poll until the condition holds, without blocking the loop. Raises `TimeoutError` after `timeout` seconds."""
    async with asyncio.timeout(timeout):
        while not condition():  # noqa: ASYNC110 - what is waited for may happen in another thread
            await asyncio.sleep(0.01)


async def until_true(condition: Callable[[], Awaitable[bool]], timeout: float = 60.0) -> None:
    """Poll a condition that is awaited until it holds. Raises `TimeoutError` after `timeout` seconds."""
    async with asyncio.timeout(timeout):
        while not await condition():  # noqa: ASYNC110 - another process makes it true
            await asyncio.sleep(0.01)

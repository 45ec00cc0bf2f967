"""Blocking calls in a thread that neither an event loop nor the interpreter waits for when it ends."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeVar

MAX_INLINE = 1 << 18
"""The largest body, in bytes, that is edited in the event loop: the worst takes some 40 ms."""

T = TypeVar("T")


def start_thread(function: Callable[[], T], name: str) -> Future[T]:
    """Run `function` in a daemon thread. The future ends with the thread, and cannot be cancelled.

    An executor will not do: its threads are joined when the loop or the interpreter ends.
    """
    future = Future[T]()
    future.set_running_or_notify_cancel()

    def run() -> None:
        try:
            result = function()
        except BaseException as error:  # noqa: BLE001 - raised again where the future is awaited
            future.set_exception(error)
        else:
            future.set_result(result)

    threading.Thread(target=run, name=name, daemon=True).start()
    return future

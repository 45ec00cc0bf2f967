"""Cancels a coroutine at each of its awaits in turn."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Generator
from typing import Any


class CancelledAt:
    """Awaits a coroutine, and cancels the running task at its n-th suspension, and at so many that follow.

    `count` is how often it was suspended: with less than n it was not cancelled.
    """

    def __init__(self, coroutine: Coroutine[Any, Any, None], n: int, *, times: int = 1) -> None:
        self._coroutine = coroutine
        self._cancelled = range(n, n + times)
        self.count = 0

    def __await__(self) -> Generator[Any, Any, None]:
        """Pass on what the coroutine waits for."""
        inner = self._coroutine.__await__()
        resume: Any = inner.__next__
        while True:
            try:
                waited_for = resume()
            except StopIteration:
                return
            self.count += 1
            if self.count in self._cancelled:
                task = asyncio.current_task()
                assert task is not None
                task.cancel()
            resume = yield from _pass_on(waited_for, inner)


def _pass_on(waited_for: Any, inner: Generator[Any, Any, None]) -> Generator[Any, Any, Any]:
    """Wait, and return what resumes the coroutine: the result, or the error."""
    try:
        result = yield waited_for
    except BaseException as error:  # noqa: BLE001 - it is raised in the coroutine
        raised = error
        return lambda: inner.throw(raised)
    return lambda: inner.send(result)

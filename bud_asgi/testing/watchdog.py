"""Detects event loops that a test, or the app under test, blocks."""

from __future__ import annotations

import asyncio
import sys
import threading
import time
import traceback
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from types import FrameType, TracebackType
from typing import Any, Self, cast

_MOST_FRAMES = 6
"""Lines of a stack that are shown: the innermost ones."""


class BlockedLoop(RuntimeError):
    """An event loop was blocked. The message says for how long, and shows the code that ran in the meantime."""


class LoopWatchdog:
    """Detects event loops that run within a `with` block and make no step for `limit` seconds.

    It watches the loop that is running, and every loop of asyncio and uvloop that begins to run in the block: that of
    an async test, of a test client, of a server in a thread. Leaving the block raises `BlockedLoop` if one was blocked,
    unless another exception leaves it.
    """

    def __init__(self, limit: float = 0.5) -> None:
        self.limit = limit
        """Seconds after which a loop counts as blocked. It may be changed within the block."""
        self.blocked: list[str] = []
        """What was blocked so far, as the exception shows it."""
        self._loops: dict[asyncio.AbstractEventLoop, _Watched] = {}
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="bud_asgi watchdog", daemon=True)
        self._originals: list[tuple[Any, Callable[[Any], None]]] = []

    def __enter__(self) -> Self:
        with suppress(RuntimeError):
            loop = asyncio.get_running_loop()
            self._loops[loop] = _Watched(loop)
        for kind in _loop_classes():
            self._originals.append((kind, kind.run_forever))
            kind.run_forever = self._watching(kind.run_forever)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for changed, original in reversed(self._originals):
            changed.run_forever = original
        self._stopped.set()
        self._thread.join()
        if self.blocked and error is None:
            raise BlockedLoop("\n".join(self.blocked))

    def _watching(self, run_forever: Callable[[Any], None]) -> Callable[[Any], None]:
        def run(loop: asyncio.AbstractEventLoop) -> None:
            with self._watch(loop):
                run_forever(loop)

        return run

    @contextmanager
    def _watch(self, loop: asyncio.AbstractEventLoop) -> Generator[None]:
        self._loops[loop] = _Watched(loop)
        try:
            yield
        finally:
            self._loops.pop(loop, None)

    def _run(self) -> None:
        while not self._stopped.wait(self.limit / 5):
            for watched in tuple(self._loops.values()):
                found = watched.check(self.limit)
                if found is not None:
                    self.blocked.append(found)


class _Watched:
    """One running loop. All but its callback runs in the watchdog's thread."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._thread = threading.get_ident()
        self._asked_at: float | None = None
        self._reported = False

    def check(self, limit: float) -> str | None:
        """Describe what blocks the loop, once, if it has made no step for `limit` seconds."""
        asked_at = self._asked_at
        if asked_at is None:
            self._asked_at, self._reported = time.monotonic(), False
            with suppress(RuntimeError):  # it has been closed
                self._loop.call_soon_threadsafe(self._answer)
            return None
        if self._reported or time.monotonic() - asked_at < limit:
            return None
        frame = sys._current_frames().get(self._thread)  # noqa: SLF001  # pyright: ignore[reportPrivateUsage] - documented
        if frame is None or self._asked_at is None:
            return None
        self._reported = True
        return f"the event loop was blocked for more than {limit:g} s by:\n{_stack(frame)}"

    def _answer(self) -> None:
        self._asked_at = None


def _loop_classes() -> list[Any]:
    """The classes of event loops that are loaded. uvloop's run in C, but from a class of Python's."""
    uvloop = sys.modules.get("uvloop")
    return [asyncio.BaseEventLoop, *([cast("Any", uvloop).Loop] if uvloop is not None else [])]


def _stack(frame: FrameType) -> str:
    """The innermost frames of a stack, without those of the loop itself."""
    frames = traceback.extract_stack(frame)
    inside = [
        index for index, one in enumerate(frames) if one.filename.endswith(("asyncio/events.py", "uvloop/loop.pyx"))
    ]
    own = frames[inside[-1] + 1 :] if inside else frames
    return "".join(traceback.format_list(own[-_MOST_FRAMES:])).rstrip()

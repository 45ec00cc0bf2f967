"""Virtual time: processes are generators that yield the seconds that they wait."""

from __future__ import annotations

from collections.abc import Generator
from heapq import heappop, heappush
from itertools import count

Process = Generator[float, None, None]


class VirtualTime:
    """Runs processes, each whenever its time has come, and jumps over the time in between. `now` is in seconds."""

    def __init__(self) -> None:
        self.now = 0.0
        self._waiting: list[tuple[float, int, Process]] = []
        self._numbers = count()  # of two that are due at the same time, the one that began to wait first goes on

    def start(self, process: Process) -> None:
        """Begin a process when `run` is called, or now if it is called by a process."""
        self._wait(process, 0.0)

    def run(self) -> None:
        """Return when all processes have ended."""
        while self._waiting:
            self.now, _, process = heappop(self._waiting)
            seconds = next(process, None)
            if seconds is not None:
                self._wait(process, seconds)

    def _wait(self, process: Process, seconds: float) -> None:
        heappush(self._waiting, (self.now + seconds, next(self._numbers), process))

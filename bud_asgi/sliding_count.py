"""A count over a sliding window. Pure: `now` is seconds on a monotonic clock."""

from __future__ import annotations

from math import inf


class SlidingCount:
    """Counts events within the last `window` seconds, in `steps`: the oldest step is dropped as a whole.

    If the clock goes back, what was counted later than its new time is dropped too.
    """

    __slots__ = ("_latest", "_older", "_since", "_step", "_steps")

    def __init__(self, window: float, steps: int) -> None:
        self._step, self._steps = window / steps, steps
        self.clear()

    def add(self, now: float, number: int = 1) -> None:
        """Count a number of events."""
        if not 0.0 <= now - self._since < self._step:
            self._older = self._within(now)  # `total` may not be called for weeks
            self._since, self._latest = now // self._step * self._step, 0
        self._latest += number

    def total(self, now: float) -> int:
        """The number of events within the window."""
        return sum(number for _, number in self._within(now))

    def clear(self) -> None:
        """Start again at zero."""
        self._since, self._latest = -inf, 0  # when the latest step began, and what was counted in it
        self._older: list[tuple[float, int]] = []  # the same of the steps before it

    def _within(self, now: float) -> list[tuple[float, int]]:
        begin = (now // self._step - self._steps + 1) * self._step
        return [step for step in (*self._older, (self._since, self._latest)) if begin <= step[0] <= now]

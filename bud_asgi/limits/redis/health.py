"""Whether a shared store works: one log line when it fails, and one when it works again."""

from __future__ import annotations

import logging
import time

_log = logging.getLogger("bud_asgi")


class Health:
    """The health of a store, of all event loops together. `url` is shown in log lines, so it holds no credential.

    `consequence` completes the sentence of what happens to requests meanwhile. It works again when no call has failed
    for `calm` seconds, so that a store that fails now and then is logged once.
    """

    def __init__(self, url: str, consequence: str, *, calm: float) -> None:
        self._url = url
        self._consequence = consequence
        self._calm = calm
        self._failed_at: float | None = None
        self._failed_last = 0.0
        self._dropped = 0

    @property
    def ok(self) -> bool:
        """Whether calls succeed."""
        return self._failed_at is None

    def failed(self, reason: str) -> None:
        """Note a failure. The first one is logged."""
        self._failed_last = time.monotonic()
        if self._failed_at is None:
            self._failed_at = self._failed_last
            _log.warning(
                "the limit store %s failed: %s. Until it works again, %s", self._url, reason, self._consequence
            )

    def worked(self) -> None:
        """Note a success. That the store works again is logged, with the number of settlements that were dropped."""
        now = time.monotonic()
        if self._failed_at is None or now < self._failed_last + self._calm:
            return
        seconds, self._failed_at = now - self._failed_at, None
        dropped, self._dropped = self._dropped, 0
        lost = f"; {dropped} settlements were dropped, so that their requests count as unused" if dropped else ""
        _log.info("the limit store %s works again after %.1f s%s", self._url, seconds, lost)

    def drop(self, settlements: int = 1) -> None:
        """Note settlements that could not be written in time."""
        self._dropped += settlements

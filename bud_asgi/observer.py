"""The events of each request, for logs, traces, metrics, and for observers of one's own."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable
from threading import Lock
from typing import ParamSpec

from starlette.types import Scope

from bud_asgi.attempt import Attempt
from bud_asgi.exchange import Exchange

_LOG_EVERY = 10.0
"""Seconds between two log messages about observers that raise."""

P = ParamSpec("P")

_log = logging.getLogger("bud_asgi")


class Observer:
    """Gets the events of each request and of the event loop. Override the methods that you need: others cost nothing.

    All of them run in the event loop, and the request waits for them: they must not block. For a request, `settled`
    is always the last event and comes exactly once, also when the client disconnects or the app shuts down. Health
    checks have no events. Exceptions are logged, and have no other effect.

    An `Exchange` and its `Attempt`s contain prompts and credentials: only pass on the fields that you name.
    """

    def request_started(self, exchange: Exchange, scope: Scope) -> None:
        """A request has arrived. `operation` is known, unless no operation has this path and method.

        `scope` is the ASGI scope of the request. It must not be kept.
        """

    def attempt_started(self, exchange: Exchange, attempt: Attempt) -> None:
        """A target has been chosen, and its request is about to be made and sent."""

    def attempt_ended(self, exchange: Exchange, attempt: Attempt) -> None:
        """The attempt has `ended`, and `end` is how. That of a stream ends with the stream.

        Its `usage` may still move to the exchange, if it is what the caller pays for.
        """

    def response_started(self, exchange: Exchange) -> None:
        """The head of the response is about to be sent: `status` and `committed` are known."""

    def settled(self, exchange: Exchange) -> None:
        """The request has ended, and its record is complete."""

    def loop_ticked(self, lag: float) -> None:
        """A timer of the event loop has run `lag` seconds late: for so long the loop was busy with other work.

        Called a few times a second while requests are in flight.
        """


class Observers:
    """The observers of an app: for each event, the methods to call. All are empty if nothing observes."""

    __slots__ = (
        "_changing",
        "_failures",
        "_log_at",
        "_observers",
        "attempt_ended",
        "attempt_started",
        "loop_ticked",
        "request_started",
        "response_started",
        "settled",
    )

    def __init__(self, observers: Iterable[Observer] = ()) -> None:
        self._failures, self._log_at, self._changing = 0, 0.0, Lock()
        self._use(tuple(observers))

    def add(self, observer: Observer) -> None:
        """Call this observer too, after those that are already here."""
        with self._changing:
            self._use((*self._observers, observer))

    def remove(self, observer: Observer) -> None:
        """Call this observer no more."""
        with self._changing:
            self._use(tuple([one for one in self._observers if one is not observer]))

    def _use(self, observers: tuple[Observer, ...]) -> None:
        """Call these. Each tuple is replaced at once, so that requests in another thread lose no event meanwhile."""
        self._observers = observers
        own = [(one, type(one)) for one in observers]
        self.request_started = tuple(
            [one.request_started for one, kind in own if kind.request_started is not Observer.request_started]
        )
        self.attempt_started = tuple(
            [one.attempt_started for one, kind in own if kind.attempt_started is not Observer.attempt_started]
        )
        self.attempt_ended = tuple(
            [one.attempt_ended for one, kind in own if kind.attempt_ended is not Observer.attempt_ended]
        )
        self.response_started = tuple(
            [one.response_started for one, kind in own if kind.response_started is not Observer.response_started]
        )
        self.settled = tuple([one.settled for one, kind in own if kind.settled is not Observer.settled])
        self.loop_ticked = tuple([one.loop_ticked for one, kind in own if kind.loop_ticked is not Observer.loop_ticked])

    def notify(self, methods: tuple[Callable[P, None], ...], *arguments: P.args, **named: P.kwargs) -> None:
        """Call the methods of one event. What one raises is logged, and the others are called all the same."""
        for method in methods:
            try:
                method(*arguments, **named)
            except Exception:  # noqa: BLE001 - code of the host's, which must not change the request
                self._log_failure(method)

    def _log_failure(self, method: Callable[..., None]) -> None:
        self._failures += 1
        now = time.monotonic()
        if now >= self._log_at:
            _log.exception("%d calls of observers failed; the last one was %s", self._failures, method.__qualname__)
            self._failures, self._log_at = 0, now + _LOG_EVERY


NO_OBSERVERS = Observers()
"""What calls nothing, for requests outside of an app."""

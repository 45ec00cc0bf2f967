"""The revisions of an app: its parts at the start, and those that replace them while it runs."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from threading import Lock

import msgspec

from bud_asgi.clock import Timing
from bud_asgi.http import HttpClient
from bud_asgi.loop import PerLoop
from bud_asgi.observer import Observers
from bud_asgi.options import OptionError, name_shown
from bud_asgi.parts import Changes, PartOptions, Parts, Shared
from bud_asgi.telemetry import AccessLog

FIXED = ("client", "middleware", "observers", "on_settled", "drain_timeout", "timing")
"""The options of `MessagesApp` that stay as they are."""


class Revisions:
    """The `current` parts of an app, which serve new requests, and its resources by event loop.

    A request keeps those parts that are current when it arrives. `started` is when the app was made, as the Unix time
    and in seconds on the monotonic clock. Raises `OptionError` for invalid options.
    """

    def __init__(
        self, options: PartOptions, client: Callable[[], HttpClient], timing: Timing, observers: Observers
    ) -> None:
        self.loops = PerLoop(client, timing, lambda: self._in_use, observers)
        self._observers, self._access_log = observers, AccessLog()
        self._shared = Shared(self.loops, observers, timing, lambda: self.current.gateway)
        self._numbers, self._changing = itertools.count(1), Lock()
        self.started = time.time(), time.monotonic()
        self._in_use: tuple[Parts, ...] = ()
        self.current: Parts
        self._use(self._made(options))

    def change(self, changes: Changes) -> Parts:
        """Replace the current parts with new ones, which have other options and continue from them; return these.

        Resources that only the previous ones use are closed when their last request has ended. Raises `OptionError`,
        and `TypeError` for a name that is not an option; then nothing has changed.
        """
        _check_names(changes)
        with self._changing:
            former = self.current
            self._use(self._made(msgspec.structs.replace(former.options, **changes), former), *self._in_use[1:])
        self.loops.retire(former)
        return self.current

    @contextmanager
    def override(self, changes: Mapping[str, object]) -> Generator[None]:
        """Replace the current parts with independent ones until the end of the block."""
        before = self._in_use
        self._use(self._made(msgspec.structs.replace(self.current.options, **changes)), *before)
        try:
            yield
        finally:
            ended = self._in_use[: -len(before)]
            self._use(*before)
            for parts in ended:
                self.loops.retire(parts)

    def _made(self, options: PartOptions, former: Parts | None = None) -> Parts:
        return Parts(options, self._shared, next(self._numbers), former)

    def _use(self, *parts: Parts) -> None:
        """Serve new requests with the first of these parts. Overrides return to the others."""
        self._in_use, self.current = parts, parts[0]
        self._observers.remove(self._access_log)
        if self.current.options.access_log:
            self._observers.add(self._access_log)


def _check_names(changes: Mapping[str, object]) -> None:
    for name in changes:
        if name in FIXED:
            expected = ", ".join(Changes.__annotations__)
            raise OptionError(name, f"cannot be changed while the app runs; expected {expected}")
        if name not in Changes.__annotations__:
            raise TypeError(f"reload() got an unexpected option {name_shown(name)!r}")

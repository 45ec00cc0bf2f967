"""The metrics of several processes: each writes its values into a file, and one that is scraped adds them up."""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Callable
from pathlib import Path

import msgspec
from starlette.types import Scope

from bud_asgi.exchange import Exchange
from bud_asgi.observer import Observer
from bud_asgi.telemetry.prometheus.merging import merge
from bud_asgi.telemetry.prometheus.metrics import METRICS, Labels
from bud_asgi.telemetry.prometheus.series import Value, Values

EVERY = 1.0
"""Seconds between two writes: how old the values of another process may be."""

FRESH = 10.0
"""Seconds after which a process that has not written has ended: what it counted stays, its gauges do not."""

_SUFFIX = ".bud_asgi"

_GAUGES = frozenset(metric.name for metric in METRICS if metric.kind == "gauge")

_log = logging.getLogger("bud_asgi")


class Snapshot(msgspec.Struct, frozen=True):
    """The values of a process, and when they were written, in seconds since the epoch."""

    written: float
    values: dict[str, dict[tuple[str, ...], float | tuple[tuple[int, ...], float]]]


_decode = msgspec.msgpack.Decoder(Snapshot).decode


class SharedFile(Observer):
    """The file of this process in a directory that the processes of an app share; `app` is the same in all of them.

    `values` returns what is to be written: every second from `start` or the first request on, and once more by `stop`.
    """

    def __init__(self, directory: Path, app: str, values: Callable[[], dict[str, dict[Labels, Value]]]) -> None:
        self._directory = directory
        self._prefix = f"{app}_"
        self._token = os.urandom(8).hex()
        self._values = values
        self._timer: asyncio.TimerHandle | None = None
        self._failing = False

    @property
    def path(self) -> Path:
        """The file. A process that was forked has another one than its parent."""
        return self._directory / f"{self._prefix}{os.getpid()}_{self._token}{_SUFFIX}"

    def start(self) -> None:
        """Write from now on, in the running event loop. May be called again, also after that loop has ended."""
        timer = self._timer
        if timer is None or timer.when() < asyncio.get_running_loop().time() - EVERY:
            if timer is not None:
                timer.cancel()
            self._on_timer()

    def stop(self) -> None:
        """Write the last values."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
            self._write()

    def request_started(self, exchange: Exchange, scope: Scope) -> None:
        """Start: a host may not run the lifespan of an app that it mounts."""
        self.start()

    def others(self, now: float) -> dict[str, dict[Labels, Value]]:
        """The values of the other processes, and of those that have ended; `now` is Unix time."""
        own = self.path
        return read_all(self._directory, now, skip=own, prefix=self._prefix)

    def _on_timer(self) -> None:
        self._timer = asyncio.get_running_loop().call_later(EVERY, self._on_timer)
        self._write()

    def _write(self) -> None:
        path = self.path
        written = path.with_suffix(".tmp")
        try:
            written.write_bytes(msgspec.msgpack.encode(Snapshot(time.time(), self._values())))
            written.replace(path)
            self._failing = False
        except OSError as error:
            if not self._failing:
                _log.error("cannot write the metrics for other processes: %s", error)
            self._failing = True


def read_all(
    directory: Path, now: float, *, skip: Path | None = None, prefix: str = ""
) -> dict[str, dict[Labels, Value]]:
    """The values of all processes in a directory, added up; `now` is Unix time. What cannot be read is left out."""
    paths = sorted(directory.glob(f"{prefix}*{_SUFFIX}"))
    return merge(_read(path, now) for path in paths if path != skip)


def _read(path: Path, now: float) -> Values:
    """The values of a process, without gauges if it has ended."""
    try:
        snapshot = _decode(path.read_bytes())
    except (OSError, msgspec.MsgspecError) as error:
        _log.warning("cannot read the metrics of another process: %s", error)
        return {}
    if abs(now - snapshot.written) < FRESH:
        return snapshot.values
    return {name: values for name, values in snapshot.values.items() if name not in _GAUGES}

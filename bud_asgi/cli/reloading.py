"""Reading the configuration again while `serve` runs: on SIGHUP, and with `--watch` when a file has changed."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
from collections.abc import Callable, Coroutine, Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from bud_asgi.app import MessagesApp
from bud_asgi.cli.check import warnings_of
from bud_asgi.config import ConfigError, Settings, reload_settings

INTERVAL = 1.0
"""Seconds between two looks at the files."""

HANGUP: signal.Signals | None = getattr(signal, "SIGHUP", None)
"""The signal that asks for it; Windows has none."""

_log = logging.getLogger("bud_asgi")

State = Mapping[Path, tuple[int, ...] | None]
"""For each file what changes with its content: time, size, and the file itself; `None` if it cannot be read."""


class Hangup:
    """SIGHUP, from now on noted instead of ending the process. Several that come together count as one."""

    def __init__(self) -> None:
        self._noted = False
        self._wake: Callable[[], object] | None = None
        if HANGUP is not None:
            signal.signal(HANGUP, self._note)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {HANGUP})

    async def wait(self, timeout: float | None) -> bool:
        """Wait for the next one, at most for `timeout` seconds. Returns whether there was one."""
        event = asyncio.Event()
        self._wake = partial(asyncio.get_running_loop().call_soon_threadsafe, event.set)
        try:
            if not self._noted:
                async with asyncio.timeout(timeout):
                    await event.wait()
        except TimeoutError:
            return False
        finally:
            self._wake = None
        self._noted = False
        return True

    def _note(self, _signal: int, _frame: object) -> None:
        self._noted = True
        if self._wake is not None:
            self._wake()


class Reloader:
    """Reads the configuration of an app again with `read`, and has the app serve it. Logs what has changed, or why not.

    `interval` is how often files are looked at with `watch`, in seconds.
    """

    def __init__(
        self, messages: MessagesApp, read: Callable[[], Settings], *, watch: bool, interval: float = INTERVAL
    ) -> None:
        self._messages = messages
        self._read = read
        self._interval = interval if watch else None
        self._files = _files_of(messages)
        self._state = look_at(self._files)

    async def run(self, hangup: Hangup) -> None:
        """Reload on each signal, and when a file that is watched has changed. Runs until it is cancelled.

        A file is read when two looks in a row find the same: it may just be written.
        """
        seen = self._state
        while True:
            if await hangup.wait(self._interval):
                await self.reload()
                continue
            previous, seen = seen, look_at(self._files)
            if seen != self._state and seen == previous:
                await self.reload()

    async def reload(self) -> None:
        """Read the configuration, in a thread, and swap it. Nothing changes if it has a problem: each is logged."""
        if not self._files:
            _log.info("not reloaded: environment variables do not change while a process runs")
            return
        self._state = look_at(self._files)
        try:
            settings = await asyncio.to_thread(self._read)
            changes = reload_settings(self._messages, settings)
        except ConfigError as error:
            self._watch_also(error.files)
            _log.error("not reloaded: the configuration has problems, and the former one goes on to be used")
            for problem in error.problems:
                _log.error("%s", problem)
            return
        self._watch_also(settings.files)
        if not changes:
            _log.info("reloaded %s: nothing has changed", settings.source)
            return
        for warning in warnings_of(settings):
            _log.warning("%s", warning)
        _log.info("reloaded %s: revision %d", settings.source, self._messages.revision)
        for change in changes:
            _log.info("%s", change)

    def _watch_also(self, files: Iterable[Path]) -> None:
        """Watch what the configuration consists of now, or would consist of, as it was when it was read."""
        self._files = frozenset(files)
        self._state = {**look_at(self._files), **{file: self._state[file] for file in self._files & self._state.keys()}}


def look_at(files: Iterable[Path]) -> State:
    """The state of files, behind symbolic links."""
    return {file: _look_at(file) for file in files}


def _look_at(file: Path) -> tuple[int, ...] | None:
    try:
        found = file.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino, found.st_dev


def _files_of(messages: MessagesApp) -> frozenset[Path]:
    return messages.source.files if isinstance(messages.source, Settings) else frozenset()


async def run_beside(reloader: Reloader, hangup: Hangup, serving: Coroutine[Any, Any, None]) -> None:
    """Reload while a server runs, until that has ended."""
    task = asyncio.get_running_loop().create_task(reloader.run(hangup), name="bud_asgi reload")
    try:
        await serving
    finally:
        task.cancel()
        await asyncio.wait({task})


def hold_hangup() -> None:
    """Block SIGHUP, here and in processes that are started from now on, until each has a `Hangup`."""
    if HANGUP is not None:
        signal.pthread_sigmask(signal.SIG_BLOCK, {HANGUP})


def take_hangup() -> bool:
    """Whether a blocked SIGHUP has come since the last call."""
    if HANGUP is None or HANGUP not in signal.sigpending():
        return False
    signal.sigwait({HANGUP})
    return True


def pass_hangup(pids: Iterable[int | None]) -> None:
    """Send SIGHUP to the workers that still run."""
    for pid in pids:
        if pid is not None and HANGUP is not None:
            try:
                os.kill(pid, HANGUP)
            except ProcessLookupError:
                continue

"""Reading the configuration again while `serve` runs: on SIGHUP, and with `--watch` when a file has changed."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine, Iterable, Mapping
from pathlib import Path
from typing import Any

from bud_asgi.app import MessagesApp
from bud_asgi.cli.serve.hangup import Hangup
from bud_asgi.cli.warnings import warnings_of
from bud_asgi.config import ConfigError, Settings, reload_settings

INTERVAL = 1.0
"""Seconds between two checks of the files."""

_log = logging.getLogger("bud_asgi")

State = Mapping[Path, tuple[int, ...] | None]
"""For each file, what changes with its content: time, size and inode; `None` if it cannot be read."""


class Reloader:
    """Reads the configuration of an app again with `read`, and applies it. Logs what has changed, or why nothing has.

    `interval` is the number of seconds between two checks of the files, with `watch`.
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

        A file is read once two checks in a row find it unchanged, because it may be half-written.
        """
        seen = self._state
        while True:
            is_asked = await hangup.wait(self._interval)
            previous, seen = seen, look_at(self._files)
            if is_asked or (seen != self._state and seen == previous):
                try:
                    await self.reload()
                except Exception:  # noqa: BLE001 - the former configuration goes on, and so does this
                    _log.exception("not reloaded")

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
            self._watch_also(error.files or self._files)  # none: the file contradicts the options of the command
            _log.error("not reloaded: the configuration has problems, and the previous one stays in use")
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

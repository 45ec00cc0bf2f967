"""The app in a worker process of `serve --workers`."""

from __future__ import annotations

import asyncio
import atexit
import logging
import os
import signal
import sys
from functools import partial
from types import FrameType
from typing import NoReturn

import msgspec
from uvicorn.loops.auto import auto_loop_factory

from bud_asgi.app import MessagesApp
from bud_asgi.cli.serve.hangup import Hangup
from bud_asgi.cli.serve.options import WORKER_OPTIONS, ServeOptions, check_options
from bud_asgi.cli.serve.reloading import Reloader
from bud_asgi.cli.settings import EXIT_FAILED
from bud_asgi.config import ConfigError, Settings, read_environment

_log = logging.getLogger("bud_asgi")


def make_loop() -> asyncio.AbstractEventLoop:
    """Make the event loop, before uvicorn takes over SIGTERM: when uvicorn stops, it raises the signal again."""
    signal.signal(signal.SIGTERM, _exit)
    return auto_loop_factory(use_subprocess=True)()


def _exit(_signal: int, _frame: FrameType | None) -> NoReturn:
    """Run Python's exit handlers, in which an SDK of OpenTelemetry exports what it still has, and end the process.

    The loop is not closed: it might wait for the clients of connections that linger.
    """
    atexit._run_exitfuncs()  # noqa: SLF001  # pyright: ignore[reportPrivateUsage] - the signal would skip them
    os._exit(0)


def make_app() -> MessagesApp:
    """Make the app that the environment describes, and reload it on SIGHUP. uvicorn calls this in its event loop."""
    hangup = Hangup()
    options = msgspec.json.decode(os.environ[WORKER_OPTIONS], type=ServeOptions)
    if options.per_worker_limits:  # they have been divided, and checked for that, when they have been read
        options = msgspec.structs.replace(options, workers=1)
    messages = _read_first(options).app()
    if options.metrics is not None:
        messages.metrics()
    reloader = Reloader(messages, partial(_read_again, options), watch=options.watch)
    hangup.task = asyncio.get_running_loop().create_task(reloader.run(hangup), name="bud_asgi reload")
    return messages


def _read_first(options: ServeOptions) -> Settings:
    """The configuration. A worker that replaces one that has died reads the file as it is by then, valid or not."""
    try:
        return _read_again(options)
    except ConfigError as error:
        for problem in error.problems:
            _log.error("worker not started: %s", problem)
        sys.exit(EXIT_FAILED)  # uvicorn tries again: with 3 it would end the other workers


def _read_again(options: ServeOptions) -> Settings:
    settings = read_environment()
    check_options(settings, options)
    return settings

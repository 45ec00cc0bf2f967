"""Keeps the debug lines of credential libraries out of the logs while they fetch for the gateway."""

from __future__ import annotations

import logging
import threading
from collections.abc import Generator
from contextlib import contextmanager

_lock = threading.Lock()


@contextmanager
def without_debug_logs(*libraries: str) -> Generator[None]:
    """Drop what these libraries log at DEBUG in this thread: it includes replies with keys and tokens.

    Lines of other threads, such as those of the host's own clients, are kept, and no level is changed. Covers the
    loggers that exist, so the libraries must have been imported.
    """
    thread = threading.get_ident()

    def keep(record: logging.LogRecord) -> bool:
        return record.levelno > logging.DEBUG or threading.get_ident() != thread

    names = [name for name in tuple(logging.Logger.manager.loggerDict) if name.partition(".")[0] in libraries]
    loggers = [logging.getLogger(name) for name in names]
    # The lists are replaced, not changed: another thread may be iterating over one, and would miss its own filter.
    with _lock:
        for logger in loggers:
            logger.filters = [*logger.filters, keep]
    try:
        yield
    finally:
        with _lock:
            for logger in loggers:
                logger.filters = [each for each in logger.filters if each is not keep]

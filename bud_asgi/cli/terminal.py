"""What the commands write for people: wrapped and coloured on a terminal, plain and on one line in a pipe."""

from __future__ import annotations

import logging
import shutil
import sys
import textwrap
import threading
from collections.abc import Generator
from contextlib import contextmanager
from types import TracebackType
from typing import IO, Literal, Self

import click

MAX_COLUMNS = 79
"""The longest line of text on a terminal."""

FIRST_SHOWN = 1.0
"""Seconds after which `Progress` begins to show that something is awaited."""

_COLOURS = {"error": "red", "warning": "yellow"}


def columns(stream: IO[str]) -> int | None:
    """The width of the terminal that a stream writes to; `None` for a pipe or a file."""
    return shutil.get_terminal_size().columns if stream.isatty() else None


def echo_text(text: str, *, err: bool = False) -> None:
    """Write a paragraph. On a terminal it is wrapped; words such as paths and URLs stay whole."""
    width = columns(sys.stderr if err else sys.stdout)
    click.echo(text if width is None else _fill(text, width), err=err)


def echo_problem(kind: Literal["error", "warning"], problem: object) -> None:
    """Write an error or a warning to stderr."""
    text = f"{kind}: {problem}"
    width = columns(sys.stderr)
    text = text if width is None else _fill(text, width)
    click.echo(click.style(f"{kind}:", fg=_COLOURS[kind]) + text.removeprefix(f"{kind}:"), err=True)


def _fill(text: str, width: int) -> str:
    return textwrap.fill(
        text, min(width - 1, MAX_COLUMNS), subsequent_indent="  ", break_long_words=False, break_on_hyphens=False
    )


class Progress:
    """Shows on stderr what is awaited, if that takes longer than a second and stderr is a terminal. Use with `with`."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._ended = threading.Event()
        self._thread: threading.Thread | None = None

    def __enter__(self) -> Self:
        if sys.stderr.isatty():
            self._thread = threading.Thread(target=self._show, name="bud_asgi progress", daemon=True)
            self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.end()

    def end(self) -> None:
        """Remove what is shown. Further calls do nothing."""
        self._ended.set()
        if self._thread is not None:
            self._thread.join()
            self._thread = None

    def _show(self) -> None:
        seconds, text = 0, ""
        while not self._ended.wait(FIRST_SHOWN):
            seconds += 1
            text = f"{self._text} ({seconds} s)"
            click.echo(f"\r{text}", err=True, nl=False)
        if text:
            click.echo(f"\r{' ' * len(text)}\r", err=True, nl=False)


class _ProblemHandler(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        echo_problem("error" if record.levelno >= logging.ERROR else "warning", record.getMessage())


@contextmanager
def log_as_problems(*, shown: bool = True) -> Generator[None]:
    """Write what the package logs as errors and warnings, or nothing of it."""
    log, handler = logging.getLogger("bud_asgi"), _ProblemHandler(logging.WARNING) if shown else logging.NullHandler()
    log.addHandler(handler)
    try:
        yield
    finally:
        log.removeHandler(handler)

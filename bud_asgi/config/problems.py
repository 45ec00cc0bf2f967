"""The problems of a configuration, and warnings about it: all of them are collected, and none shows a secret."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from pathlib import Path

import msgspec

from bud_asgi.config.lines import KeyPath, Lines
from bud_asgi.options import OptionError, key_text, looks_secret, option_path


class Problem(msgspec.Struct, frozen=True):
    """One problem: the file (or `environment`), the line in it if that is known, the key path, and what is wrong."""

    source: str
    path: str
    message: str
    line: int | None = None

    def __str__(self) -> str:
        source = self.source if self.line is None else f"{self.source}:{self.line}"
        return ": ".join(part for part in (source, self.path, self.message) if part)


class ConfigError(Exception):
    """The configuration is invalid. `problems` has all that was found; the text has one problem per line.

    `files` are those that were read, or should have been: a change of one may make it valid.
    """

    def __init__(self, problems: Iterable[Problem], files: Collection[Path] = ()) -> None:
        self.problems = tuple(problems)
        self.files = frozenset(files)
        super().__init__("\n".join(str(problem) for problem in self.problems))


class Problems:
    """Collects the problems of one source. `files` are those that it consists of: its own, and those of secrets."""

    def __init__(self, source: str, text: str = "", files: Iterable[Path] = ()) -> None:
        self.source = source
        self.files = set(files)
        self._lines = Lines(text)
        self._found: dict[KeyPath, Problem] = {}

    def add(self, path: KeyPath, message: str) -> None:
        """Note a problem at a key path. The first one at each path is kept."""
        if path not in self._found:
            self._found[path] = Problem(self.source, render(path), message, self._lines.find(path))

    def add_option(self, path: KeyPath, error: OptionError) -> None:
        """Note what a constructor refused, unless it only follows from a problem with another option."""
        if error.other is None or not self.within((*path, error.other)):
            self.add((*path, *option_path(error.option)), error.problem)

    def at(self, path: KeyPath) -> bool:
        """Whether there is a problem at a key path itself."""
        return path in self._found

    def within(self, path: KeyPath) -> bool:
        """Whether there is a problem at a key path or below it."""
        return any(found[: len(path)] == path for found in self._found)

    def in_order(self) -> list[Problem]:
        """Return what was found in the order of the lines, what has no line first."""
        return sorted(self._found.values(), key=lambda problem: problem.line or 0)

    def raise_any(self) -> None:
        """Raise `ConfigError` if there is a problem."""
        if self._found:
            raise ConfigError(self.in_order(), self.files)


def render(path: KeyPath) -> str:
    """Write a key path as TOML would. A key that could be a secret is not shown."""
    text = ""
    for key in path:
        if isinstance(key, int):
            text += f"[{key}]"
            continue
        shown = "(not shown)" if looks_secret(key) else key_text(key)
        text += f".{shown}" if text else shown
    return text

"""Line numbers for key paths, which tomllib does not report."""

from __future__ import annotations

import tomllib
from bisect import bisect_left
from typing import Any

KeyPath = tuple[str | int, ...]
"""The keys that lead to a value, and indexes into lists."""


class Lines:
    """Finds where a key path is defined in a TOML document that has been parsed.

    A document cut off after a complete statement is a document itself. So the statement that defines a path is the last
    one of the shortest such prefix in which tomllib finds the path: TOML is never parsed here.
    """

    def __init__(self, text: str) -> None:
        self._lines = text.replace("\r\n", "\n").split("\n")  # as tomllib does
        self._parsed: dict[int, dict[str, Any] | None] = {0: {}}

    def find(self, path: KeyPath) -> int | None:
        """Return the line, counted from 1, of the path or else of its nearest parent; `None` if there is none."""
        total = len(self._lines)
        while path and not self._defines(total, path):
            path = path[:-1]
        if not path:
            return None
        end = bisect_left(range(total + 1), True, key=lambda count: self._defines(count, path))
        return self._statements_until(end - 1) + 1

    def _defines(self, count: int, path: KeyPath) -> bool:
        """Whether the statements that end within the first `count` lines define the path."""
        value: Any = self._parse(self._statements_until(count))
        try:
            for key in path:
                value = value[key]
        except (LookupError, TypeError):
            return False
        return True

    def _statements_until(self, count: int) -> int:
        """The number of lines, at most `count`, after which no statement is unfinished."""
        while self._parse(count) is None:
            count -= 1
        return count

    def _parse(self, count: int) -> dict[str, Any] | None:
        if count not in self._parsed:
            try:
                self._parsed[count] = tomllib.loads("\n".join(self._lines[:count]))
            except (ValueError, RecursionError):
                self._parsed[count] = None
        return self._parsed[count]

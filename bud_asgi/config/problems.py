"""What is wrong with a configuration: collected whole, told in words that show no secret."""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Iterable

import msgspec

_BARE_KEY = re.compile(r"[A-Za-z0-9_-]+")
_LONGEST_SHOWN = 60
_LIKE_A_SECRET = re.compile(r"sk-|sha256:|[A-Za-z0-9+/=_-]{32}", re.IGNORECASE)


class Problem(msgspec.Struct, frozen=True):
    """One thing that is wrong: the file (or `environment`), the key path in it, what was found and what is allowed."""

    source: str
    path: str
    message: str

    def __str__(self) -> str:
        return ": ".join(part for part in (self.source, self.path, self.message) if part)


class ConfigError(Exception):
    """A configuration that can't be served. `problems` are all of them; its text has one on each line."""

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(str(problem) for problem in self.problems))


class Problems:
    """Collects what is wrong with one source, so that one error does not hide the next."""

    def __init__(self, source: str) -> None:
        self.source = source
        self._found: list[Problem] = []

    def __len__(self) -> int:
        return len(self._found)

    def add(self, path: str, message: str) -> None:
        """Note a problem at a key path, in words of its own."""
        self._found.append(Problem(self.source, path, message))

    def mismatch(self, path: str, found: str, allowed: str) -> None:
        """Note that something else was found than what is allowed."""
        self.add(path, f"found {found}; allowed is {allowed}")

    def at(self, path: str) -> bool:
        """Whether something is wrong at this very path."""
        return any(problem.path == path for problem in self._found)

    def raise_any(self) -> None:
        """Raise `ConfigError` with all of them, if there are any."""
        if self._found:
            raise ConfigError(self._found)


def joined(path: str, key: str) -> str:
    """The path of a key in a table, quoted where TOML would quote it."""
    key = key if _BARE_KEY.fullmatch(key) else json.dumps(key)
    return f"{path}.{key}" if path else key


def shown(value: object) -> str:
    """A value from a file, in words: in full where it is short and no secret can be in it, else by its type."""
    if isinstance(value, str):
        hidden = len(value) > _LONGEST_SHOWN or _LIKE_A_SECRET.search(value)
        return f"a string of {len(value)} characters that is not shown" if hidden else json.dumps(value)
    if isinstance(value, int) and value.bit_length() > 64:
        return "a number of more than 64 bits"
    if isinstance(value, int | float):
        return repr(value).lower()
    if value == []:
        return "an empty list"
    return "a table" if isinstance(value, dict) else "a list" if isinstance(value, list) else "a date or time"


def listed(names: Iterable[str]) -> str:
    """Names as a list in a sentence."""
    return ", ".join(names)


def nearest(name: str, known: Iterable[str]) -> str:
    """A question that offers the nearest known name; empty if none is near."""
    near = difflib.get_close_matches(name, list(known), 1)
    return f" (did you mean {near[0]}?)" if near else ""

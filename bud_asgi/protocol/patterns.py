"""Model names, and patterns of names with `*`."""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import lru_cache

import msgspec

MAX_REMEMBERED = 4096
"""How many answers about names of models are remembered."""

LONGEST_REMEMBERED = 100
"""The longest name of a model that is remembered, in characters: clients choose names."""

_RESOURCE_INITIALS = frozenset("aA/p")
_CONTEXT_WINDOW = re.compile(r"[0-9]{1,4}[kKmM]\]")


def base_name(name: str) -> str:
    """The name of a Claude model without the context window that clients append, as in `claude-opus-4-8[1m]`.

    It is a setting of the client: no service knows a model of that name. Other names are returned as they are.
    """
    if not name.endswith("]"):
        return name
    base, _, window = name.rpartition("[")
    return base if "claude-" in base and _CONTEXT_WINDOW.fullmatch(window) else name


class Pattern(msgspec.Struct, frozen=True, gc=False):
    """A name, or a pattern in which each `*` stands for any characters, also none: its literal parts.

    `last` is `None` for a plain name. Matching takes time linear in the name for each part: it never backtracks.
    """

    first: str
    middle: tuple[str, ...] = ()
    last: str | None = None

    def matches(self, name: str) -> bool:
        """Whether the whole name matches."""
        if self.last is None:
            return name == self.first
        start, end = len(self.first), len(name) - len(self.last)
        if start > end or not name.startswith(self.first) or not name.endswith(self.last):
            return False
        for part in self.middle:  # the leftmost occurrence leaves the most room for the parts after it
            found = name.find(part, start, end)
            if found < 0:
                return False
            start = found + len(part)
        return True


@lru_cache(maxsize=4096)
def compile_pattern(pattern: str) -> Pattern:
    """Split a name or pattern at its `*`. Cached: patterns are the operator's."""
    first, *others = pattern.split("*")
    return Pattern(first, tuple(part for part in others[:-1] if part), others[-1]) if others else Pattern(first)


def matches(pattern: str, name: str) -> bool:
    """Whether a name equals a pattern or matches its `*`."""
    return pattern in {"*", name} or ("*" in pattern and compile_pattern(pattern).matches(name))


def is_resource_name(model: str) -> bool:
    """Whether a name is a cloud's full name of a resource, which may belong to another account."""
    return model[:1] in _RESOURCE_INITIALS and (
        model[:4].lower() == "arn:" or model.startswith(("//", "projects/", "publishers/"))
    )


def names_resource(patterns: Iterable[str], name: str) -> bool:
    """Whether one of the patterns was written for a resource: `arn:aws:bedrock:*` does, `*` alone does not."""
    return any(is_resource_name(pattern) and matches(pattern, name) for pattern in patterns)


def matches_any(patterns: tuple[str, ...], name: str) -> bool:
    """Whether a name matches one of the patterns, which are the operator's. Remembered for names of usual length."""
    return _matches_any(patterns, name) if len(name) <= LONGEST_REMEMBERED else _search(patterns, name)


def _search(patterns: tuple[str, ...], name: str) -> bool:
    for pattern in patterns:  # noqa: SIM110 - a generator costs more than most matches
        if matches(pattern, name):
            return True
    return False


_matches_any = lru_cache(maxsize=MAX_REMEMBERED)(_search)


class PatternIndex:
    """Finds the first of many names and patterns that matches a name. Build it once for a route table.

    Patterns are grouped by the literal text before their first `*`, so that a lookup does not try every one of a
    thousand. Where that text is empty it does, so results are remembered.
    """

    __slots__ = ("_by_prefix", "_found", "_lengths", "_names")

    def __init__(self, patterns: Iterable[str]) -> None:
        self._names: dict[str, int] = {}
        self._by_prefix: dict[str, list[tuple[int, Pattern]]] = {}
        for position, text in enumerate(patterns):
            pattern = compile_pattern(text)
            if pattern.last is None:
                self._names.setdefault(text, position)
            else:
                self._by_prefix.setdefault(pattern.first, []).append((position, pattern))
        self._lengths = sorted({len(prefix) for prefix in self._by_prefix})
        self._found: dict[str, int | None] = {}

    def first(self, name: str) -> int | None:
        """The position of the first pattern that matches a name; `None` if none does."""
        try:
            return self._found[name]
        except KeyError:
            found = self._search(name)
        if len(name) <= LONGEST_REMEMBERED:
            if len(self._found) >= 4 * MAX_REMEMBERED:
                self._found.clear()
            self._found[name] = found
        return found

    def _search(self, name: str) -> int | None:
        best = self._names.get(name)
        for length in self._lengths:
            for position, pattern in self._by_prefix.get(name[:length], ()):
                if best is not None and position >= best:
                    break
                if pattern.matches(name):
                    best = position
                    break
        return best

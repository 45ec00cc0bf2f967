"""Paths of request fields, such as `tools.strict`: how they are written, and which of them an operator may drop."""

from __future__ import annotations

import re
from difflib import get_close_matches

import msgspec

from bud_asgi.options import OptionError, check_texts, shown
from bud_asgi.protocol.fields import FIELDS

_STEP = re.compile(r"([0-9A-Za-z_-]{1,100})(?:\[([0-9A-Za-z_*]+)\])?")
_EXPECTED = 'a list of request fields, such as ["metadata", "tools.strict"]'
_REQUIRED = frozenset({"max_tokens", "messages", "messages.content", "messages.content.type", "messages.role", "model"})
_OF_THE_GATEWAY = {
    "anthropic_beta": "beta flags are dropped with drop_betas",
    "anthropic_version": "the upstream needs it",
    "stream": "the gateway needs it",
}
_CONTAINERS = frozenset({"object", "array"})


class Step(msgspec.Struct, frozen=True):
    """One name in a path. With a `kind`, a name or `*` pattern, it is a list: its items with that `type`."""

    name: str
    kind: str = ""

    @property
    def word(self) -> bytes:
        """Bytes that a body contains wherever the step leads, unless it escapes ASCII letters."""
        return f'"{self.kind.partition("*")[0] if self.kind else self.name}'.encode() + (b"" if self.kind else b'"')


Path = tuple[Step, ...]
"""A path from the top of a request. A list on the way stands for each of its items."""


def parse_path(text: str) -> Path:
    """Parse a path of the package's own data. Raises `ValueError`."""
    return tuple(_parse_step(part) for part in text.split("."))


def _parse_step(text: str) -> Step:
    match = _STEP.fullmatch(text)
    if match is None:
        raise ValueError(f"invalid step of a path: {text!r}")
    return Step(match[1], match[2] or "")


def check_drop_fields(value: object) -> tuple[str, ...]:
    """Check the fields that an operator drops, and return them. Raises `OptionError` for a path without a meaning."""
    paths = check_texts("drop_fields", value, _EXPECTED)
    for path in paths:
        parts = path.split(".")
        if problem := _problem_of_form(parts) or _problem_of_meaning(path, parts):
            raise OptionError("drop_fields", f"{shown(path)} {problem}")
    return paths


def _problem_of_form(parts: list[str]) -> str:
    """Return how a path is written wrongly; empty if it is not."""
    if not all(parts):
        return "has an empty part; a path is written like tools.strict"
    if any(part.isdigit() or part == "*" or "[" in part for part in parts):
        return "must not have an index or *: a list stands for all of its items, as in tools.strict"
    if not all(_STEP.fullmatch(part) for part in parts):
        return "is not the path of a field; expected names of letters, digits, _ and -, separated by dots"
    return ""


def _problem_of_meaning(path: str, parts: list[str]) -> str:
    """Return why a path cannot be dropped, or leads nowhere; empty if it can mean something."""
    root = parts[0]
    if reason := "a request is not valid without it" if path in _REQUIRED else _OF_THE_GATEWAY.get(root):
        return f"cannot be dropped: {reason}"
    field = FIELDS.get(root)
    if field is None:
        close = get_close_matches(root, FIELDS, 1, cutoff=0.88)
        return f"names no known field (did you mean {'.'.join([close[0], *parts[1:]])}?)" if close else ""
    if len(parts) > 1 and _CONTAINERS.isdisjoint(field.kinds):
        return f"leads nowhere: {root} has no fields"
    return ""

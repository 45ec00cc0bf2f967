"""The edits of a request body."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable

from bud_asgi.protocol.errors import RequestTooLarge
from bud_asgi.protocol.malformed import MALFORMED_JSON
from bud_asgi.protocol.request import MessagesRequest
from bud_asgi.protocol.values import TooManyValues

MAX_EDITS = 10_000
"""The most values that are removed from one field. Anthropic accepts four breakpoints and some hundred tools."""


class BodyEdit:
    """Collects the changes to a request body: `changed` values, fields to leave out (`without`), more `flags` to send.

    `dropped` names what the client loses by them, `lost` has the patterns of the flags that belong to it.
    """

    __slots__ = ("changed", "dropped", "flags", "lost", "request", "without")

    def __init__(self, request: MessagesRequest) -> None:
        self.request = request
        self.flags: list[str] = []
        self.lost: list[str] = []
        self.changed: dict[str, bytes] = {}
        self.without: set[str] = set()
        self.dropped: list[str] = []

    def value(self, name: str) -> bytes | None:
        """Return the current value of a top-level field; `None` if it is absent or was removed."""
        if name in self.without:
            return None
        return self.changed[name] if name in self.changed else self.request.value(name)

    def found_in(self, name: str, words: Iterable[bytes]) -> list[bytes]:
        """Return those of the words that a top-level value contains, without copying the value."""
        if name in self.without:
            return []
        body = self.changed.get(name)
        if body is None and name not in self.request.spans:
            return []
        start, end = (0, len(body)) if body is not None else self.request.spans[name]
        find = (self.request.body if body is None else body).find
        return [word for word in words if find(word, start, end) >= 0]

    def matches(self, name: str, pattern: re.Pattern[bytes]) -> bool:
        """Return whether a part of a top-level value matches, without copying the value."""
        if name in self.without:
            return False
        changed = self.changed.get(name)
        if changed is not None:
            return pattern.search(changed) is not None
        span = self.request.spans.get(name)
        return span is not None and pattern.search(self.request.body, *span) is not None

    def edited(self, name: str, edit: Callable[[bytes], bytes | None], *, required: bool = False) -> bytes | None:
        """Return what an edit makes of a top-level value; `None` if it changes nothing or the value is malformed.

        A value of too many parts is not changed. If the edit is `required`, it raises `RequestTooLarge`.
        """
        try:
            return edit(self.value(name) or b"null")
        except MALFORMED_JSON:
            return None
        except TooManyValues:
            if required:
                raise RequestTooLarge(f"{name}: a value of so many parts cannot be adapted to the upstream") from None
            return None

    def remove(self, name: str) -> None:
        """Leave a top-level field out, without a mark."""
        self.without.add(name)
        self.changed.pop(name, None)

    def drop(self, name: str) -> None:
        """Remove a top-level field and mark it as dropped."""
        self.remove(name)
        self.mark_dropped(name)

    def mark_dropped(self, name: str) -> None:
        """Add a name to `dropped`, once."""
        if name not in self.dropped:
            self.dropped.append(name)

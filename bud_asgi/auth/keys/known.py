"""What is known of the keys of a store: pure, the time is passed in."""

from __future__ import annotations

from hmac import compare_digest
from math import inf
from typing import TypeVar

import msgspec

from bud_asgi.auth.credentials import Authenticated, authenticated
from bud_asgi.auth.keys.record import ApiKey
from bud_asgi.auth.keys.timing import KeyTiming

T = TypeVar("T")

MAX_ACCEPTED = 50_000
"""Keys that were accepted and are remembered, each about 1 KB of memory."""

MAX_REFUSED = 10_000
"""Keys that were refused and are remembered, each about 200 bytes of memory."""


class Accepted(msgspec.Struct, frozen=True):
    """A key that a store has confirmed. Times are seconds on the monotonic clock.

    Until `fresh_until` it is accepted as it is, until `usable_until` only while the store is unavailable.
    """

    digest: bytes
    name: str
    result: Authenticated
    fresh_until: float
    usable_until: float


class KnownKeys:
    """The results of lookups by the digest of the key, those of refused ones apart, so that they displace no others.

    Beyond a number of each, those that were looked up first are forgotten.
    """

    def __init__(self, timing: KeyTiming) -> None:
        self._timing = timing
        self._accepted: dict[bytes, Accepted] = {}
        self._refused: dict[bytes, float] = {}

    def find(self, digest: bytes) -> Accepted | None:
        """The key of a digest, if it has been accepted: by its first bytes, then compared in constant time."""
        known = self._accepted.get(digest[:8])
        return known if known is not None and compare_digest(known.digest, digest) else None

    def is_refused(self, digest: bytes, now: float) -> bool:
        """Whether the key of a digest has just been refused."""
        return now < self._refused.get(digest, -inf)

    def any_usable(self, now: float) -> bool:
        """Whether there is a key that is accepted while the store is unavailable."""
        return any(now < known.usable_until for known in list(self._accepted.values()))

    def accept(self, digest: bytes, key: ApiKey, seconds: float, now: float) -> Authenticated:
        """Remember a key that is valid for so many seconds."""
        self._refused.pop(digest, None)
        result = authenticated(key.principal)
        fresh_until, usable_until = (now + min(seconds, most) for most in (self._timing.fresh, self._timing.stale))
        _put(self._accepted, digest[:8], Accepted(digest, key.name, result, fresh_until, usable_until), MAX_ACCEPTED)
        return result

    def refuse(self, digest: bytes, now: float) -> None:
        """Remember that a key was refused."""
        self._accepted.pop(digest[:8], None)
        _put(self._refused, digest, now + self._timing.fresh, MAX_REFUSED)

    def forget(self, name: str) -> None:
        """Forget a key that has been changed, and all refused ones, because it may be one of them."""
        for start, known in list(self._accepted.items()):
            if known.name == name:
                self._accepted.pop(start, None)
        self._refused.clear()


def _put(entries: dict[bytes, T], key: bytes, value: T, most: int) -> None:
    """Add an entry at the end, and remove the one at the start if there are too many."""
    entries.pop(key, None)
    if len(entries) >= most:
        entries.pop(next(iter(entries)), None)
    entries[key] = value

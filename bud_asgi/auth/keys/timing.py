"""How long what is known of a key is used, and how long a store may take."""

from __future__ import annotations

import msgspec

from bud_asgi.options import check_seconds


class KeyTiming(msgspec.Struct, frozen=True, kw_only=True):
    """Durations in seconds. The defaults are for production; tests pass shorter ones.

    `fresh`: how long the result of a lookup is used, whether the key was accepted or refused. `stale`: how long a key
    that was accepted is accepted without a lookup while the store is unavailable. `timeout`: how long a lookup may
    take. `retry`: the pause before a store that was unavailable is called again. `note_every`: how often the times of
    use are written to the store. Raises `OptionError`.
    """

    fresh: float = 10.0
    stale: float = 3600.0
    timeout: float = 2.0
    retry: float = 1.0
    note_every: float = 60.0

    def __post_init__(self) -> None:
        """Check the durations."""
        for name in self.__struct_fields__:
            check_seconds(name, getattr(self, name), maximum=1e6)


DEFAULT_KEY_TIMING = KeyTiming()
"""The durations for production."""

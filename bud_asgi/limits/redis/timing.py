"""How long the client of a Redis or Valkey server waits, apart from the deadline of a call."""

from __future__ import annotations

import msgspec

from bud_asgi.options import check_seconds


class StoreTiming(msgspec.Struct, frozen=True, kw_only=True):
    """Durations in seconds. The defaults are for production; tests pass shorter ones.

    `silence`: how long a connection may leave a call unanswered before it is closed,
    and how long calls have to succeed before the store is reported to work again. `connect_within`: how long finding
    the node, connecting and authenticating may take. `first_pause`, `longest_pause`: between two attempts to connect,
    or to write a settlement; each pause is twice as long as the one before. `close_within`: how long settlements that
    have not been written yet may take when the store is closed. Raises `OptionError`.
    """

    silence: float = 1.0
    connect_within: float = 2.0
    first_pause: float = 0.1
    longest_pause: float = 5.0
    close_within: float = 1.0

    def __post_init__(self) -> None:
        """Check the durations."""
        for name in self.__struct_fields__:
            check_seconds(name, getattr(self, name))

    def pause(self, failures: int) -> float:
        """How long to wait after so many failures in a row; the first attempt after one success comes at once."""
        return min(self.first_pause * 2.0 ** min(failures - 1, 30), self.longest_pause) if failures else 0.0


DEFAULT_STORE_TIMING = StoreTiming()
"""The durations for production."""

"""The timeouts of a request to an upstream. Data only."""

from __future__ import annotations

import msgspec

from bud_asgi.options import check_seconds


class Timeouts(msgspec.Struct, frozen=True):
    """The timeouts of a request to an upstream, in seconds.

    `connect` covers name resolution, TCP and TLS. `first_byte` runs from the last byte of the request to the head of
    the reply. `silence` is the longest pause between two reads of the reply's body, and between two writes of the
    request's. `total` is how long a request for a JSON reply may take until its last byte; a stream may take any time.
    Raises `OptionError` for a value that is not a positive number.
    """

    connect: float = 5.0
    first_byte: float = 600.0
    silence: float = 300.0
    total: float = 900.0

    def __post_init__(self) -> None:
        """Check that each is a positive number."""
        for name in self.__struct_fields__:
            check_seconds(name, getattr(self, name))

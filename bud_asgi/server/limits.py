"""How much a client may send before it is answered, and how long it may take."""

from __future__ import annotations

import sys

import msgspec

from bud_asgi.protocol.headers import MAX_HEAD, MAX_HEADER_LINES


class ServerLimits(msgspec.Struct, frozen=True, kw_only=True):
    """The limits of a server's connections. Sizes are in bytes, durations in seconds.

    `head`, `header_lines`: the request line with all header fields, and the number of fields. `framing`: chunk
    extensions and trailers of a body, beyond what its chunks need. `pipelined`: how many requests of one connection may
    wait for the response to the one before.

    `head_timeout`: from the first byte of a head to its end. `first_byte`: from the start of a connection to the first
    byte. `keep_alive`: from a response to the next request; longer than a load balancer in front keeps its connections,
    or it sends requests on one that is being closed.

    `linger`, `linger_bytes`: how long, and how much, a client may go on sending a body that has been refused. It needs
    that time to read the answer: a socket that is closed with unread bytes is reset. `close_timeout`: how long a client
    may stop reading on a connection that is being closed.

    `connections`: how many may be open, `concurrency`: how many requests may run; `None` for any number. `idle_grace`:
    how long a connection without a request is safe from making room for another at the limit. `tick`: how often
    deadlines are looked at.
    """

    head: int = MAX_HEAD
    header_lines: int = MAX_HEADER_LINES
    framing: int = 1 << 15
    pipelined: int = 100
    head_timeout: float = 15.0
    first_byte: float = 15.0
    keep_alive: float = 75.0
    linger: float = 2.0
    linger_bytes: int = 4 << 20
    close_timeout: float = 10.0
    connections: int | None = None
    concurrency: int | None = None
    idle_grace: float = 1.0
    tick: float = 0.25


def default_connections() -> int | None:
    """Half of the file descriptors that the process may open: the rest is for upstreams. `None` without a limit."""
    if sys.platform == "win32":
        return None
    import resource  # noqa: PLC0415 - not on Windows

    descriptors, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return None if descriptors == resource.RLIM_INFINITY else max(1, descriptors // 2)

"""Request ids: `req_` and 24 random hexadecimal digits, so that none can be guessed from another."""

from __future__ import annotations

import os

_BATCH = 128

_unused: list[str] = []


def new_request_id() -> str:
    """Return a new id. Randomness is read for many ids at once: each read is a system call."""
    while not _unused:
        _unused.extend(os.urandom(12 * _BATCH).hex(" ", 12).split())
    return "req_" + _unused.pop()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_unused.clear)  # the parent will use those it has read

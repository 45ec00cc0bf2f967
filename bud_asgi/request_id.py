"""Request ids: `req_` and 24 random hexadecimal digits, so that none can be guessed from another."""

from __future__ import annotations

import os

_DIGITS = 24
_BATCH = 128

_unused: list[str] = []


def new_request_id() -> str:
    """Return a new id. Randomness is read for many ids at once: each read is a system call."""
    while True:
        try:
            return _unused.pop()
        except IndexError:
            digits = os.urandom(_BATCH * _DIGITS // 2).hex()
            _unused.extend(f"req_{digits[at : at + _DIGITS]}" for at in range(0, len(digits), _DIGITS))


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_unused.clear)  # the parent will use those it has read

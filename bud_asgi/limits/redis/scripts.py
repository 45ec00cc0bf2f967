"""The scripts that run in the server, each call in one step, and their keys and arguments."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from functools import lru_cache
from pathlib import Path

import msgspec

from bud_asgi.limit import Limit, limit_id
from bud_asgi.limits.store import Charge


class Script(msgspec.Struct, frozen=True):
    """A Lua script, and the name under which the server keeps it."""

    source: bytes
    sha: bytes


def _load(name: str) -> Script:
    here = Path(__file__).parent
    source = (here / "bucket.lua").read_bytes() + (here / f"{name}.lua").read_bytes()
    return Script(source, hashlib.sha1(source, usedforsecurity=False).hexdigest().encode())


RESERVE = _load("reserve")
SETTLE = _load("settle")
RENEW = _load("renew")
STATUSES = _load("statuses")
SCRIPTS = (RESERVE, SETTLE, RENEW, STATUSES)


def keys_of(tag: bytes, charges: Iterable[Charge]) -> list[bytes]:
    """Two keys for each charge. `tag` in braces is all that a cluster hashes, so that one node has all of them."""
    keys: list[bytes] = []
    for charge in charges:
        name = f"{_key_part(charge.limit)}:{charge.key}".encode("utf-8", "surrogatepass")
        keys += (b"%b:u:%b" % (tag, name), b"%b:h:%b" % (tag, name))
    return keys


def arguments(
    now: bytes, lease: bytes, hold: bytes, expires_at: float, charges: Sequence[Charge], amounts: Iterable[int]
) -> list[bytes | int]:
    """The arguments of a script. `now` is empty for the server's time, `expires_at` 0 if it is not known."""
    found: list[bytes | int] = [now, lease, hold, number(expires_at)]
    for charge, amount in zip(charges, amounts, strict=True):
        found.append(amount)
        found += _limit_arguments(charge.limit)
    return found


def number(value: float) -> bytes:
    """A number as a script reads it, without rounding."""
    return b"%.17g" % value


@lru_cache(maxsize=4096)
def _key_part(limit: Limit) -> str:
    """The identity of a limit, without the colon that ends it in a key."""
    return limit_id(limit).replace("%", "%25").replace(":", "%3A")


@lru_cache(maxsize=4096)
def _limit_arguments(limit: Limit) -> tuple[bytes, ...]:
    enforced = b"0" if limit.observed else b"1"
    return number(limit.amount), number(limit.rate), number(limit.window or 0.0), enforced

"""The scripts that run in the server, each call in one step, and their calls as they are sent."""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterable, Sequence
from functools import lru_cache
from pathlib import Path

import msgspec

from bud_asgi.limit import Limit, limit_id
from bud_asgi.limits.store import Charge


class Script(msgspec.Struct, frozen=True):
    """A Lua script, and the beginnings of its calls: by its hash, and by its source, which the server then keeps."""

    source: bytes
    by_hash: bytes
    by_source: bytes


class Arguments(msgspec.Struct, frozen=True):
    """Keys and arguments of a call as they are sent, and their number. They follow the beginning of the call."""

    number: int
    encoded: bytes


def bulk(value: bytes) -> bytes:
    """A string in the Redis protocol."""
    return b"$%d\r\n%b\r\n" % (len(value), value)


def command(*words: bytes | str | int) -> bytes:
    """A command in the Redis protocol."""
    parts = [word if isinstance(word, bytes) else str(word).encode() for word in words]
    return b"*%d\r\n%b" % (len(parts), b"".join(map(bulk, parts)))


def number(value: float) -> bytes:
    """A number as a script reads it, without rounding."""
    return b"%.17g" % value


def call(beginning: bytes, arguments: Arguments) -> bytes:
    """The call of a script."""
    return b"*%d\r\n%b%b" % (2 + arguments.number, beginning, arguments.encoded)


def keys_of(tag: bytes, charges: Iterable[Charge]) -> list[bytes]:
    """The two keys of each charge, encoded. `tag` in braces is all that a cluster hashes: one node has all of them."""
    return [_keys(tag, charge.limit, charge.key) for charge in charges]


def arguments_of(
    head: Iterable[bytes],
    charges: Sequence[Charge],
    amounts: Iterable[int],
    keys: Sequence[bytes],
    ids: Sequence[bytes],
) -> Arguments:
    """The arguments of a script, as described in `bucket.lua`. `head` are the four before those of the buckets."""
    count = len(charges)
    parts = [bulk(b"%d" % (2 * count)), *keys, *map(bulk, head)]
    for charge, amount in zip(charges, amounts, strict=True):
        parts += (bulk(b"%d" % amount), _limit(charge.limit))
    parts += map(bulk, ids)
    return Arguments(5 + 7 * count + len(ids), b"".join(parts))


def numbers_of(reply: object, count: int) -> tuple[float, ...] | None:
    """The numbers that a script replied with; `None` if the reply is not of that form."""
    if isinstance(reply, bytes) and len(reply) == 8 * count:
        return struct.unpack(f"<{count}d", reply)
    return None


@lru_cache(maxsize=16384)
def _keys(tag: bytes, limit: Limit, key: str) -> bytes:
    identity = limit_id(limit).replace("%", "%25").replace(":", "%3A")  # a colon ends it
    name = f"{identity}:{key}".encode("utf-8", "surrogatepass")
    return bulk(b"%b:u:%b" % (tag, name)) + bulk(b"%b:h:%b" % (tag, name))


@lru_cache(maxsize=4096)
def _limit(limit: Limit) -> bytes:
    """The numbers of a limit as arguments."""
    numbers = (number(limit.amount), number(limit.rate), number(limit.window or 0.0))
    return b"".join(map(bulk, (*numbers, b"0" if limit.observed else b"1")))


def _load(name: str) -> Script:
    here = Path(__file__).parent
    source = (here / "bucket.lua").read_bytes() + (here / f"{name}.lua").read_bytes()
    sha = hashlib.sha1(source, usedforsecurity=False).hexdigest().encode()
    return Script(source, bulk(b"EVALSHA") + bulk(sha), bulk(b"EVAL") + bulk(source))


RESERVE = _load("reserve")
SETTLE = _load("settle")
RENEW = _load("renew")
STATUSES = _load("statuses")
SCRIPTS = (RESERVE, SETTLE, RENEW, STATUSES)

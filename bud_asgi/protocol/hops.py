"""The gateways that a request has been through, in a header of our own: how a gateway notices that it calls itself."""

from __future__ import annotations

import re

from bud_asgi.protocol.errors import LoopDetected

HOPS = b"bud-hops"
"""The name of the header: the ids of the gateways, separated by commas, the latest one last."""

MAX_HOPS = 10
"""How many gateways a request may have been through before this one."""

ID_LENGTH = 16
"""Hexadecimal digits in the id of a gateway."""

_ID = re.compile(rb"[0-9a-f]{%d}" % ID_LENGTH)


def next_hops(received: bytes | None, own: bytes) -> bytes:
    """The header for the next server: the ids that were received, and our own.

    What is not an id is dropped. Raises `LoopDetected` if our own is among them, or if there are too many.
    """
    if received is None:
        return own
    hops = [hop.strip() for hop in received.split(b",")]
    if own in hops:
        raise LoopDetected("This request has been through this gateway before: one of its upstreams leads back to it")
    if len(hops) > MAX_HOPS:
        raise LoopDetected(f"This request has been through more than {MAX_HOPS} gateways")
    return b", ".join([*(hop for hop in hops if _ID.fullmatch(hop)), own])

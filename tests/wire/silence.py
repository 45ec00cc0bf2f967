"""A gateway that pings soon when its upstream is silent, and what its clients receive."""

from __future__ import annotations

import json
from collections.abc import Generator
from contextlib import contextmanager

from support.calls import BODY, UPSTREAM_KEY
from support.gateway import PATIENT, Gateway, gateway, provider

from bud_asgi.clock import Timing
from bud_asgi.http import Timeouts
from bud_asgi.protocol.sse import PING
from bud_asgi.testing import StandIn, ThreadedStandIn

STREAM = (
    b'event: message_start\ndata: {"type":"message_start","message":{"usage":{"input_tokens":3,"output_tokens":1}}}\n\n'
    b'event: message_delta\ndata: {"type":"message_delta","usage":{"output_tokens":9}}\n\n'
    b'event: message_stop\ndata: {"type":"message_stop"}\n\n'
)
SENT = json.dumps({**BODY, "stream": True}, indent=1).encode()
LATE = 0.15
"""Seconds after which an upstream responds so late that a ping has been sent."""


IMPATIENT = Timing(tick=0.005, ping_after=LATE / 3, watch_after=0.05, close_within=0.2)
"""The first ping after a third of `LATE`, by a clock that is hardly late."""


@contextmanager
def impatient_gateway(timeouts: Timeouts = PATIENT) -> Generator[tuple[Gateway, ThreadedStandIn]]:
    """A gateway that pings soon and its upstream, with nothing left open at the end."""
    with (
        StandIn(api_key=UPSTREAM_KEY).in_thread() as stand_in,
        gateway("", providers=[provider(stand_in.base_url, timeouts=timeouts)], timing=IMPATIENT) as one,
    ):
        yield one, stand_in
        one.assert_nothing_open()


def after_pings(body: bytes, most: int = 100) -> bytes:
    """The bytes after the gateway's own pings, of which there is at least one."""
    rest = body
    while rest.startswith(PING):
        rest = rest[len(PING) :]
    assert 1 <= (len(body) - len(rest)) // len(PING) <= most, body
    return rest

"""The scenarios: how many conversations, and what goes wrong with which target when. Data only."""

from __future__ import annotations

from collections.abc import Mapping
from math import inf
from typing import Literal

import msgspec

ErrorKind = Literal["connect", "server_error", "reset", "overloaded", "credential"]
"""How a request fails at a target.

`connect`: no connection. `server_error`: a 500. `reset`: the connection ends before a reply, and the input is billed.
`overloaded`: a 529. `credential`: the gateway's own is rejected.
"""


class Fault(msgspec.Struct, frozen=True, kw_only=True):
    """What is wrong with a target from `since` until `until`, in seconds.

    `errors` are the shares of its requests that fail, by kind. `slowdown` multiplies all its times. `capacity` is how
    many requests at once it serves at full speed. `requests_per_minute` is what is left to us of its rate limit.
    `breaks_streams`: running replies end at `since`. `clears_cache`: it comes back without its prompt cache.
    """

    target: int = 0
    since: float
    until: float
    errors: Mapping[ErrorKind, float] = {}
    slowdown: float = 1.0
    capacity: float = inf
    requests_per_minute: float | None = None
    breaks_streams: bool = False
    clears_cache: bool = False

    def covers(self, now: float) -> bool:
        """Whether it lasts."""
        return self.since <= now < self.until


class Scenario(msgspec.Struct, frozen=True):
    """Conversations at a fleet, and its faults. `name` is that of its plot, `text` describes it."""

    name: str
    title: str
    text: str
    faults: tuple[Fault, ...]
    targets: int = 4
    replicas: int = 3
    conversations: int = 200
    turns: int = 20

    @property
    def disturbed(self) -> tuple[float, float]:
        """From the beginning of the first fault to the end of the last one, in seconds."""
        return min(fault.since for fault in self.faults), max(fault.until for fault in self.faults)


MAIN = Scenario(
    "main",
    "One target out for 60 seconds",
    "Every new request to the first target gets a 500 for a minute.",
    (Fault(since=300, until=360, errors={"server_error": 1.0}),),
)

OUTAGE = Scenario(
    "outage",
    "Three targets out for three minutes",
    "Three targets, as of one provider in three regions, break off their replies and refuse connections. They come "
    "back without their caches.",
    tuple(
        Fault(target=target, since=300, until=480, errors={"connect": 1.0}, breaks_streams=True, clears_cache=True)
        for target in (0, 1, 2)
    ),
)

BROWNOUT = Scenario(
    "brownout",
    "One target slow and failing",
    "For five minutes the first target takes four times as long, and 30 % of its requests fail: two thirds with a 500, "
    "one third without a reply, but billed.",
    (Fault(since=240, until=540, errors={"server_error": 0.2, "reset": 0.1}, slowdown=4.0),),
)

RATE_LIMIT = Scenario(
    "rate-limit",
    "Rate limit reached",
    "For five minutes only 30 requests a minute are left of the first target's rate limit. Its replies report that "
    "in their headers; further requests get a 429 with `retry-after`.",
    (Fault(since=240, until=540, requests_per_minute=30.0),),
)

RECOVERY = Scenario(
    "recovery",
    "A slow recovery",
    "The first target is out for a minute. It comes back without its cache, eight times slower and with room for 4 "
    "requests at once, and is back to normal after three more minutes.",
    (
        Fault(since=240, until=300, errors={"server_error": 1.0}, clears_cache=True),
        Fault(since=300, until=360, slowdown=8.0, capacity=4.0),
        Fault(since=360, until=420, slowdown=4.0, capacity=8.0),
        Fault(since=420, until=480, slowdown=2.0, capacity=16.0),
    ),
)

OVERLOADED = Scenario(
    "overloaded",
    "One target with little capacity",
    "The first target serves 8 requests at once at full speed, gets slower with each further one, and answers 529 from "
    "16 on. All four together have about 60 requests in flight.",
    (Fault(since=0, until=1e9, capacity=8.0),),
)

CREDENTIAL = Scenario(
    "credential",
    "A credential expires",
    "For five minutes the first target rejects the gateway's credential.",
    (Fault(since=240, until=540, errors={"credential": 1.0}),),
)

UNDISTURBED = Scenario("undisturbed", "No fault", "Nothing goes wrong.", ())

SCENARIOS = (MAIN, OUTAGE, BROWNOUT, RATE_LIMIT, RECOVERY, OVERLOADED, CREDENTIAL)

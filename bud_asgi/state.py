"""What `MessagesApp.state()` returns: an app as its process sees it at one moment. Data only."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import msgspec

from bud_asgi.attempt import Target

Availability = Literal["up", "probing", "down"]
"""`up`: it gets requests. `down`: none, while others can take them. `probing`: one at a time, to see if it is back."""

Breaker = Literal["closed", "open", "half_open"]
"""`closed`: requests pass. `open`: none, while others can take them. `half_open`: one at a time, as a probe."""

ReasonCode = Literal["draining", "key_store", "issuer", "credential", "route"]
"""The kinds of faults.

`draining`: the app shuts down. `key_store`: the store of the callers' keys does not answer. `issuer`: the tokens of an
issuer cannot be verified. `credential`: a provider's credential could not be fetched. `route`: all targets of a route
are down.
"""


class Reason(msgspec.Struct, frozen=True):
    """A fault, and its description for people (`message`).

    `blocks`: the app is not ready because of it. Other reasons leave it ready: another process would not do better.
    """

    code: ReasonCode
    message: str
    blocks: bool = False


class TargetState(msgspec.Struct, frozen=True):
    """The state of a target as this process sees it.

    Times are in seconds. `reason` is in words, empty if there is nothing to report. `retry_in` is the time until it may
    be tried again; `None` if it may be tried. `first_byte` is the average time to the first event, `None` before the
    first. `calls` are all that began, `failures` those that show a fault of the target. `last_failure` is the last of
    those in words, which contain nothing of the upstream's, and `last_failure_age` how long ago it was; both stay when
    the target has recovered. `breaker` is the reason for the `state` or not: a target that is rate limited is down with
    a closed breaker.
    """

    target: Target
    state: Availability
    reason: str = ""
    retry_in: float | None = None
    in_flight: int = 0
    first_byte: float | None = None
    calls: int = 0
    failures: int = 0
    breaker: Breaker = "closed"
    last_failure: str = ""
    last_failure_age: float | None = None


class RouteState(msgspec.Struct, frozen=True):
    """A route: the name or pattern of its model, and its targets in order. `down`: none of them gets requests."""

    model: str
    targets: tuple[Target, ...]
    down: bool


class PoolState(msgspec.Struct, frozen=True):
    """The connections to one origin, `host` or `host:port`, of all event loops: how many are `busy` and `idle` now.

    `reused` are the requests sent on a connection that had served before, `stale_retries` those of them that found it
    closed by the peer and were sent once more, since the start.
    """

    origin: str
    busy: int
    idle: int
    reused: int
    stale_retries: int


class CredentialState(msgspec.Struct, frozen=True):
    """The state of a provider's credential; never its value. Times are in seconds.

    `age`: since it was fetched; `None` for one that is fixed, the caller's, or not fetched yet. `expires_in`: until it
    expires; `None` if that is not known, or never. `usable`: requests can be sent, as far as is known: a credential is
    fetched on first use. `failing`: the last fetch failed; the log has the reason.
    """

    provider: str
    age: float | None
    expires_in: float | None
    usable: bool
    failing: bool


class LimitState(msgspec.Struct, frozen=True):
    """A general limit. `name` describes it, `id` is the same in every process, `per` names what it is counted for.

    `used` is how much of the `amount` is used, by messages; in debt it is more. It is known for a limit per `all` that
    this process counts in memory, else `None`: `await messages.limits.standing(principal)` reports that of a caller.
    """

    name: str
    id: str
    per: str
    amount: int
    used: float | None


class RetryBudgetState(msgspec.Struct, frozen=True):
    """The budget for further attempts after those that load upstreams.

    In the last minute: the `attempts`, the `retries` among them that count, and how many are `allowed`. Since the
    start: how many retries were `taken`, how many of those were `returned` because they succeeded, and how many were
    `refused`.
    """

    attempts: int
    retries: int
    allowed: float
    taken: int
    returned: int
    refused: int


class AppState(msgspec.Struct, frozen=True, kw_only=True):
    """An app as its process sees it at one moment.

    `started` is Unix time, `uptime` in seconds. `revision` is that of the configuration, from 1. `ready` is whether
    requests can be served; `reasons` are those that prevent it, and other faults.

    `requests` are those in flight, `streams` those of them whose stream has begun, `waiting` those that wait for room
    in a limit. `body_bytes` is what request bodies take of the `body_budget`, in bytes. `background_tasks` are
    settlements and callbacks that run. Of `targets`, those of the `routes` are complete; of a router that is a function
    they are those that have been called.
    """

    version: str
    started: float
    uptime: float
    revision: int
    ready: bool
    reasons: tuple[Reason, ...]
    requests: int
    streams: int
    waiting: int
    body_bytes: int
    body_budget: int
    targets: tuple[TargetState, ...]
    routes: tuple[RouteState, ...]
    pools: tuple[PoolState, ...]
    credentials: tuple[CredentialState, ...]
    limits: tuple[LimitState, ...]
    retry_budget: RetryBudgetState
    background_tasks: int


class Readiness(msgspec.Struct, frozen=True):
    """Whether an app is `ready`, and the `reasons`: those that prevent it, and others worth knowing."""

    ready: bool
    reasons: tuple[Reason, ...]

    @classmethod
    def of(cls, reasons: Sequence[Reason]) -> Readiness:
        """Ready unless one of the reasons blocks."""
        return cls(not any(reason.blocks for reason in reasons), tuple(reasons))

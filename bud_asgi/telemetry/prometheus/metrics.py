"""The metrics: their names, labels and buckets. Data only."""

from __future__ import annotations

from typing import Literal

import msgspec

Kind = Literal["counter", "gauge", "histogram"]

Merge = Literal["sum", "max", "min"]
"""How the values of several processes become one."""

Labels = tuple[str, ...]
"""The values of the labels of a series, in the order of the metric's own."""

OTHER = "other"
"""The value of a label that stands for those that are too many, or unknown."""

NONE = "none"
"""The value of a label where there is nothing to name: a request that was refused before it had a target."""


class Metric(msgspec.Struct, frozen=True):
    """A metric. `named` are those of its `labels` whose values come from configuration; the others have a closed set.

    `bounds` are the upper bounds of a histogram's buckets, without infinity. Times are in seconds.
    """

    name: str
    kind: Kind
    help: str
    labels: Labels = ()
    named: Labels = ()
    bounds: tuple[float, ...] = ()
    merge: Merge = "sum"


_DURATION = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0)
_ADDED = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0)
_FIRST_EVENT = (0.05, 0.1, 0.25, 0.5, 1.0, 2.0, 3.0, 5.0, 10.0, 20.0, 30.0, 60.0, 120.0)
_GAP = (0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 20.0, 30.0, 60.0, 120.0)
_LAG = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)

REQUESTS = Metric(
    "bud_requests_total",
    "counter",
    "Requests that have ended.",
    ("operation", "outcome", "status", "route", "target"),
    ("route", "target"),
)
ERRORS = Metric(
    "bud_errors_total", "counter", "Errors that clients got, by the type in the error object.", ("operation", "type")
)
ATTEMPTS = Metric(
    "bud_attempts_total", "counter", "Attempts at upstreams that have ended.", ("target", "end"), ("target",)
)
TOKENS = Metric(
    "bud_tokens_total",
    "counter",
    "Tokens that callers have used. Thinking tokens are included in those of the output.",
    ("kind", "route", "target"),
    ("route", "target"),
)
REFUSALS = Metric(
    "bud_limit_refusals_total",
    "counter",
    "Requests that a limit has refused, or would have refused where it only observes.",
    ("limit", "per", "mode"),
    ("limit", "per"),
)
DURATION = Metric(
    "bud_request_duration_seconds",
    "histogram",
    "From the arrival of a request to its end.",
    ("operation", "stream", "route"),
    ("route",),
    _DURATION,
)
ADDED = Metric(
    "bud_added_seconds",
    "histogram",
    "What the gateway itself has added until the response began, without waiting for clients and upstreams.",
    ("operation",),
    (),
    _ADDED,
)
FIRST_EVENT = Metric(
    "bud_time_to_first_event_seconds",
    "histogram",
    "From the start of an attempt to the first event of its stream, or to the whole body of a JSON reply.",
    ("target", "stream"),
    ("target",),
    _FIRST_EVENT,
)
LONGEST_GAP = Metric(
    "bud_longest_gap_seconds",
    "histogram",
    "The longest time between two pieces of a stream, one value for each stream.",
    ("target",),
    ("target",),
    _GAP,
)
LOOP_LAG = Metric(
    "bud_loop_lag_seconds",
    "histogram",
    "By how much a timer of the event loop was late, a few times a second while requests are in flight.",
    (),
    (),
    _LAG,
)
RETRY_BUDGET = Metric(
    "bud_retry_budget_total",
    "counter",
    "Further attempts after failures that load upstreams: taken from the budget, returned to it by success, refused.",
    ("result",),
)

INFO = Metric("bud_info", "gauge", "Always 1; the label is the version of the package.", ("version",), merge="max")
REVISION = Metric("bud_config_revision", "gauge", "How often the configuration has been applied.", merge="min")
READY = Metric("bud_ready", "gauge", "1 if requests can be served, as `/readyz` reports it, else 0.", merge="min")
IN_FLIGHT = Metric("bud_requests_in_flight", "gauge", "Requests that have arrived and have not ended.")
STREAMS = Metric("bud_streams_in_flight", "gauge", "Requests in flight whose stream has begun.")
WAITING = Metric("bud_requests_waiting", "gauge", "Requests in flight that wait for room in a limit.")
BODY_BYTES = Metric("bud_body_bytes", "gauge", "Bytes of request bodies in memory.")
BODY_BUDGET = Metric("bud_body_budget_bytes", "gauge", "Bytes of request bodies that may be in memory.")
BACKGROUND = Metric("bud_background_tasks", "gauge", "Settlements and callbacks that run after their requests.")
CONNECTIONS = Metric(
    "bud_upstream_connections",
    "gauge",
    "Open connections to upstreams, `idle` or `busy`.",
    ("origin", "state"),
    ("origin",),
)
TARGET_STATE = Metric(
    "bud_target_state",
    "gauge",
    "1 for the state that a target is in: `up`, `probing` or `down`. Of several processes, how many see it so.",
    ("target", "state"),
    ("target",),
)
BREAKER = Metric(
    "bud_target_breaker",
    "gauge",
    "1 for the state of a target's breaker: `closed`, `half_open` or `open`. Of several processes, how many see it so.",
    ("target", "state"),
    ("target",),
)
TARGET_IN_FLIGHT = Metric(
    "bud_target_attempts_in_flight", "gauge", "Attempts at a target that run now.", ("target",), ("target",)
)
CREDENTIAL_AGE = Metric(
    "bud_credential_age_seconds",
    "gauge",
    "Since the credential of a provider was fetched. Of several processes, the longest.",
    ("provider",),
    ("provider",),
    merge="max",
)
CREDENTIAL_EXPIRY = Metric(
    "bud_credential_expires_in_seconds",
    "gauge",
    "Until the credential of a provider expires. Of several processes, the soonest.",
    ("provider",),
    ("provider",),
    merge="min",
)
CREDENTIAL_USABLE = Metric(
    "bud_credential_usable",
    "gauge",
    "1 if requests can be sent with the credential of a provider, else 0. Of several processes, the worst.",
    ("provider",),
    ("provider",),
    merge="min",
)

METRICS: tuple[Metric, ...] = (
    REQUESTS,
    ERRORS,
    ATTEMPTS,
    TOKENS,
    REFUSALS,
    RETRY_BUDGET,
    DURATION,
    ADDED,
    FIRST_EVENT,
    LONGEST_GAP,
    LOOP_LAG,
    INFO,
    REVISION,
    READY,
    IN_FLIGHT,
    STREAMS,
    WAITING,
    BODY_BYTES,
    BODY_BUDGET,
    BACKGROUND,
    CONNECTIONS,
    TARGET_STATE,
    BREAKER,
    TARGET_IN_FLIGHT,
    CREDENTIAL_AGE,
    CREDENTIAL_EXPIRY,
    CREDENTIAL_USABLE,
)
"""All of them, in the order of the exposition."""

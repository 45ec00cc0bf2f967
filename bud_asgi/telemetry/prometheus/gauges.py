"""The metrics that are read when they are scraped: the state of the app."""

from __future__ import annotations

from collections.abc import Iterator
from typing import get_args

from bud_asgi.state import AppState, Availability, Breaker, CredentialState, TargetState
from bud_asgi.telemetry.prometheus.merging import put
from bud_asgi.telemetry.prometheus.metrics import (
    BACKGROUND,
    BODY_BUDGET,
    BODY_BYTES,
    BREAKER,
    CONNECTIONS,
    CREDENTIAL_AGE,
    CREDENTIAL_EXPIRY,
    CREDENTIAL_USABLE,
    IN_FLIGHT,
    INFO,
    READY,
    RETRY_BUDGET,
    REVISION,
    STREAMS,
    TARGET_IN_FLIGHT,
    TARGET_STATE,
    WAITING,
    Labels,
    Metric,
)
from bud_asgi.telemetry.prometheus.series import Names, Value

Sample = tuple[Metric, Labels, float]


def values_of_state(state: AppState, targets: Names) -> dict[str, dict[Labels, Value]]:
    """The values that the state of an app has. `targets` are the names of targets; those beyond are summed up."""
    found: dict[str, dict[Labels, Value]] = {}
    for metric, labels, value in _samples(state, targets, Names()):
        put(found, metric, labels, value)
    return found


def _samples(state: AppState, targets: Names, others: Names) -> Iterator[Sample]:
    yield INFO, (state.version,), 1
    yield REVISION, (), state.revision
    yield READY, (), int(state.ready)
    yield IN_FLIGHT, (), state.requests
    yield STREAMS, (), state.streams
    yield WAITING, (), state.waiting
    yield BODY_BYTES, (), state.body_bytes
    yield BODY_BUDGET, (), state.body_budget
    yield BACKGROUND, (), state.background_tasks
    yield RETRY_BUDGET, ("taken",), state.retry_budget.taken
    yield RETRY_BUDGET, ("returned",), state.retry_budget.returned
    yield RETRY_BUDGET, ("refused",), state.retry_budget.refused
    for pool in state.pools:
        yield CONNECTIONS, (others.label(pool.origin), "busy"), pool.busy
        yield CONNECTIONS, (others.label(pool.origin), "idle"), pool.idle
    for target in state.targets:
        yield from _samples_of_target(target, targets.label(target.target.name))
    for credential in state.credentials:
        yield from _samples_of_credential(credential, others.label(credential.provider))


def _samples_of_target(target: TargetState, name: str) -> Iterator[Sample]:
    for state in get_args(Availability):
        yield TARGET_STATE, (name, state), int(target.state == state)
    for breaker in get_args(Breaker):
        yield BREAKER, (name, breaker), int(target.breaker == breaker)
    yield TARGET_IN_FLIGHT, (name,), target.in_flight


def _samples_of_credential(credential: CredentialState, name: str) -> Iterator[Sample]:
    yield CREDENTIAL_USABLE, (name,), int(credential.usable)
    if credential.age is not None:
        yield CREDENTIAL_AGE, (name,), credential.age
    if credential.expires_in is not None:
        yield CREDENTIAL_EXPIRY, (name,), credential.expires_in

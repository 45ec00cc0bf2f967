"""Takes the state of an app from its parts: without waiting, and without starting anything."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence

from bud_asgi.auth import worst_of
from bud_asgi.gateway import Gateway
from bud_asgi.http import Origin, PoolStats, ReportsPools
from bud_asgi.loop import LoopResources, PerLoop
from bud_asgi.parts import Parts
from bud_asgi.protocol.operations import PUBLIC
from bud_asgi.providers import Provider, RefreshedCredential
from bud_asgi.routing import Route
from bud_asgi.state import (
    AppState,
    CredentialState,
    PoolState,
    Readiness,
    Reason,
    RouteState,
    TargetState,
)
from bud_asgi.version import __version__


def take_snapshot(parts: Parts, loops: PerLoop, *, started: tuple[float, float]) -> AppState:
    """The state now. `started` is when the app was made: the Unix time, and seconds on the monotonic clock."""
    now, bodies = time.monotonic(), parts.bodies
    targets = parts.gateway.target_states(now)
    routes = _routes(parts.gateway, targets)
    credentials = tuple([_credential(provider) for provider in parts.gateway.providers])
    readiness = Readiness.of([*_blocking(parts, loops), *_notable(parts, credentials, routes)])
    requests, streams = _in_flight(loops)
    return AppState(
        version=__version__,
        started=started[0],
        uptime=now - started[1],
        revision=parts.revision,
        ready=readiness.ready,
        reasons=readiness.reasons,
        requests=requests,
        streams=streams,
        waiting=parts.limiter.waiting,
        body_bytes=bodies.held,
        body_budget=bodies.total,
        targets=tuple(targets),
        routes=routes,
        pools=_pools(loops.all()),
        credentials=credentials,
        limits=tuple(parts.limiter.state()),
        retry_budget=parts.gateway.retry_budget.state(now),
        background_tasks=sum(len(loop.tasks) for loop in loops.all()),
    )


async def check_readiness(parts: Parts, loops: PerLoop) -> Readiness:
    """Whether requests can be served. Calls the stores of keys that have not answered lately, but not during a drain.

    What only upstreams, issuers and credentials lack does not block: another process would lack it too, its clients get
    errors that say so, and only requests find out when it is over.
    """
    if not _is_draining(loops):
        for chain in parts.chains:
            await chain.status()
    gateway = parts.gateway
    credentials = [_credential(provider) for provider in gateway.providers]
    routes = _routes(gateway, gateway.target_states(time.monotonic()))
    return Readiness.of([*_blocking(parts, loops), *_notable(parts, credentials, routes)])


def _is_draining(loops: PerLoop) -> bool:
    return any(loop.draining for loop in loops.all())


def _blocking(parts: Parts, loops: PerLoop) -> Iterator[Reason]:
    if _is_draining(loops):
        yield Reason("draining", "the app is shutting down", blocks=True)
    status = worst_of([chain.known_status() for chain in parts.chains])
    if status == "unavailable":
        yield Reason("key_store", "the key store does not answer, and no key is cached", blocks=True)
    elif status == "degraded":
        yield Reason("key_store", "the key store does not answer; only recently used keys are accepted")


def _notable(parts: Parts, credentials: Sequence[CredentialState], routes: Sequence[RouteState]) -> Iterator[Reason]:
    for chain in parts.chains:
        for issuer in chain.unavailable_issuers():
            yield Reason("issuer", f"the keys of {issuer} cannot be fetched")
    for credential in credentials:
        if not credential.usable:
            yield Reason("credential", f"the credential of {credential.provider} cannot be fetched")
    for route in routes:
        if route.down:
            yield Reason("route", f"all targets of the route {route.model} are down")


def _in_flight(loops: PerLoop) -> tuple[int, int]:
    """The number of requests that are in flight, and of those whose stream has begun."""
    counted = [exchange for exchange in loops.in_flight() if exchange.operation not in PUBLIC]
    begun = [exchange.read_request for exchange in counted if exchange.committed is not None]
    return len(counted), sum(request is not None and request.stream for request in begun)


def _routes(gateway: Gateway, targets: Sequence[TargetState]) -> tuple[RouteState, ...]:
    down = {(one.target.provider, one.target.model) for one in targets if one.state == "down"}
    return tuple([_route(route, down) for route in gateway.routes])


def _route(route: Route, down: set[tuple[str, str | None]]) -> RouteState:
    targets = route.targets
    return RouteState(route.model, targets, all((one.provider, one.model) in down for one in targets))


def _credential(provider: Provider) -> CredentialState:
    credential = provider.credential
    status = credential.status() if isinstance(credential, RefreshedCredential) else None
    if status is None:
        return CredentialState(provider.name, None, None, usable=True, failing=False)
    usable = status.usable or not status.failing
    return CredentialState(provider.name, status.age, status.expires_in, usable, status.failing)


def _pools(loops: Sequence[LoopResources]) -> tuple[PoolState, ...]:
    """The connections by the name of their origin, which several `Origin`s may have."""
    pools: dict[str, PoolState] = {}
    for loop in loops:
        stats: Mapping[Origin, PoolStats] = loop.client.pool_stats() if isinstance(loop.client, ReportsPools) else {}
        for origin, one in stats.items():
            name = origin.authority.decode()
            former = pools.get(name) or PoolState(name, 0, 0, 0, 0)
            pools[name] = PoolState(
                name,
                former.busy + one.open - one.idle,
                former.idle + one.idle,
                former.reused + one.reused,
                former.stale_retries + one.stale_retries,
            )
    return tuple(pools.values())

"""A gateway with every kind of limit. Its callers are named by their key, and each test has callers of its own."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Collection, Generator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import httpx
import msgspec
from starlette.types import ASGIApp, Scope

from bud_asgi import Exchange, HostUser, Limit, MemoryStore, Principal
from bud_asgi.exchange import Reservation
from bud_asgi.limits import Charge, Grant, Standing
from bud_asgi.testing import Received, StandIn, ThreadedStandIn, Usage
from support.calls import BODY, HEADERS, MODEL, UPSTREAM_KEY
from support.gateway import PATIENT, Gateway, gateway, provider
from support.uploads import upload
from support.valkey import CountedRedisStore
from support.waiting import until, wait_until

PLENTY = 1_000_000
LONG = 1e9
"""Seconds: a window of which nothing is refilled during a test."""
EVERY_KIND = (
    Limit("requests", PLENTY, LONG),
    Limit("input_tokens", PLENTY, LONG),
    Limit("output_tokens", PLENTY, LONG),
    Limit("tokens", PLENTY, LONG),
    Limit("concurrent", 1000),
)
USAGE = Usage(input_tokens=37, output_tokens=11)
"""What a whole reply of these tests has used."""


def stopped() -> float:
    """A clock that has stopped: nothing refills, so what is booked stays as it is."""
    return 1000.0


class AwaitingStore(MemoryStore):
    """A store like one behind a network: each call takes a turn of the event loop."""

    async def reserve(self, charges: Sequence[Charge]) -> Grant:
        """Reserve after the turn."""
        await asyncio.sleep(0)
        return await super().reserve(charges)

    async def settle(self, reservation: Reservation, amounts: Sequence[int]) -> None:
        """Settle after the turn."""
        await asyncio.sleep(0)
        await super().settle(reservation, amounts)


Store = MemoryStore | CountedRedisStore


class Booked(msgspec.Struct, frozen=True):
    """What a caller has used of each kind of limit; `concurrent` is what still runs."""

    requests: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    tokens: int = 0
    concurrent: int = 0


class Limited:
    """A gateway with limits, its upstream, and the store."""

    def __init__(self, here: Gateway, upstream: ThreadedStandIn, store: Store) -> None:
        self.here, self.upstream, self.store = here, upstream, store
        self.limiter = here.messages.limits

    async def booked(self, caller: Principal | str) -> Booked:
        """What is booked for a caller, once everything is settled. Fails if anything stays reserved."""
        await until(lambda: not self.store.open)
        standing = await asyncio.to_thread(self.standing, caller)
        assert not any(one.reserved for one in standing), standing
        return Booked(**{one.limit.kind: one.used for one in standing})

    def booked_now(self, caller: Principal | str) -> Booked:
        """The same for a test that is not async."""
        return asyncio.run(self.booked(caller))

    def standing(self, caller: Principal | str) -> Sequence[Standing]:
        """The standing of a caller, in the order of its limits."""
        (loop,) = self.here.messages._loops._by_loop  # a store's connections belong to the loop of the gateway
        return asyncio.run_coroutine_threadsafe(self.limiter.standing(caller), loop).result(30)

    def accounts(self, caller: str) -> list[Exchange]:
        """The records of a caller's settled requests."""
        return [one for one in tuple(self.here.settled) if one.principal is not None and one.principal.id == caller]

    def account(self, caller: str) -> Exchange:
        """The record of a caller's only request, once it is settled."""
        wait_until(lambda: bool(self.accounts(caller)), f"the account of {caller}")
        (only,) = self.accounts(caller)
        return only

    def post(self, caller: str, body: bytes | None = None, **fields: Any) -> httpx.Response:
        """Send one request of a caller; `fields` replace those of the usual body."""
        return self.here.post(body or encoded(**fields), headers=lines(caller))

    def count(self, caller: str) -> httpx.Response:
        """Count the tokens of the usual request."""
        body = {name: value for name, value in BODY.items() if name != "max_tokens"}
        url = f"{self.here.base_url}/v1/messages/count_tokens"
        return httpx.post(url, headers=lines(caller), json=body)

    def models(self, caller: str) -> httpx.Response:
        """List the models."""
        return httpx.get(f"{self.here.base_url}/v1/models", headers=lines(caller))

    def began(self, caller: str, body: bytes, sent: bytes | None = None) -> AbstractContextManager[Any]:
        """Send a request, or a part of its body, on a socket of its own; the client leaves with the block."""
        declared = {"content-length": str(len(body))}
        return upload(self.here, {**lines(caller), **declared}, body if sent is None else sent)


def lines(caller: str) -> dict[str, str]:
    """The headers of a caller's request."""
    return {**HEADERS, "x-api-key": caller, "content-type": "application/json"}


def encoded(**fields: Any) -> bytes:
    """The usual body with these fields."""
    return json.dumps({**BODY, "model": MODEL, **fields}).encode()


def in_flight(upstream: ThreadedStandIn | StandIn) -> int:
    """The requests that the upstream is answering."""
    return sum(_is_running(request) for request in tuple(upstream.requests))


def _is_running(request: Received) -> bool:
    return request.complete and not request.done and request.aborted is None


def caller_by_key(principals: Collection[Principal]) -> Callable[[Scope], Principal | str | None]:
    """Read the caller from the key of a request: one of these principals, or one of that name."""
    known = {principal.id: principal for principal in principals}

    def caller(scope: Scope) -> Principal | str | None:
        name = dict(scope["headers"])[b"x-api-key"].decode()
        return known.get(name, name)

    return caller


def user(principals: Collection[Principal] = ()) -> HostUser:
    """The authentication of these gateways."""
    return HostUser(caller_by_key(principals))


@contextmanager
def limited(
    *limits: Limit,
    principals: Collection[Principal] = (),
    store: Store | None = None,
    upstream: ThreadedStandIn | None = None,
    wrap: Callable[[ASGIApp], ASGIApp] | None = None,
    **options: Any,
) -> Generator[Limited]:
    """Serve a gateway with these limits, by default before an upstream of its own; `options` are the app's."""
    if upstream is None:
        with (
            StandIn(api_key=UPSTREAM_KEY).in_thread() as own,
            limited(*limits, principals=principals, store=store, upstream=own, wrap=wrap, **options) as one,
        ):
            yield one
        return
    store = MemoryStore(clock=stopped) if store is None else store
    settings: dict[str, Any] = {"providers": [provider(upstream.base_url, timeouts=PATIENT)], **options}
    if "middleware" not in settings:
        settings = {"auth": user(principals), "limits": limits, "store": store, **settings}
    with gateway("", wrap=wrap, **settings) as here:
        yield Limited(here, upstream, store)
        here.assert_nothing_open()
        wait_until(lambda: not store.open, "open reservations")

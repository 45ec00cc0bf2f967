"""What belongs to one event loop: the HTTP client, the clock, the requests in flight, background tasks."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress

from bud_asgi.budget import BodyBudget
from bud_asgi.clock import Clock, Timing
from bud_asgi.disconnect import ActiveRequest
from bud_asgi.exchange import Exchange
from bud_asgi.http import HttpClient
from bud_asgi.models import UpstreamModelLists
from bud_asgi.observer import NO_OBSERVERS, Observers
from bud_asgi.protocol.errors import ShuttingDown
from bud_asgi.providers import Provider, traits_of
from bud_asgi.response import Response
from bud_asgi.tasks import BackgroundTasks

_log = logging.getLogger("bud_asgi")


class LoopResources:
    """The resources of one event loop, and its registry of requests in flight.

    The registry serves drains, disconnects and pings: one clock, and one registration for each request. `bodies` is the
    budget of the app, of all its loops, and `hops` the id of this gateway. `close_store` closes the connections of the
    limit store. `observers` are notified of each tick. `now` is the loop's clock: to look up the running loop takes a
    system call in Python 3.11.
    """

    def __init__(
        self,
        client: HttpClient,
        providers: Sequence[Provider],
        timing: Timing,
        bodies: BodyBudget,
        hops: bytes = b"",
        close_store: Callable[[], Awaitable[None]] | None = None,
        observers: Observers = NO_OBSERVERS,
    ) -> None:
        self.client = client
        self._observers = observers
        self._close_store = close_store
        self.bodies = bodies
        self.timing = timing
        self.hops = hops
        self.model_lists = UpstreamModelLists(providers, client, hops=hops)
        self._other_models = any(traits_of(provider).has_own_bounds for provider in providers)
        self.tasks = BackgroundTasks()
        self.in_flight: dict[Exchange, ActiveRequest] = {}
        self.draining = False
        self._loop = asyncio.get_running_loop()
        self.now = self._loop.time
        self._clock = Clock(self._loop, tick=timing.tick)
        self._empty = asyncio.Event()

    def add(self, exchange: Exchange, response: Response) -> ActiveRequest:
        """Register a request that has arrived, and equip its record."""
        exchange.tasks, exchange.max_body, exchange.upload.budget = self.tasks, self.bodies.max_body, self.bodies
        exchange.other_models = self._other_models
        if not self.in_flight:
            self._clock.watch(self)
        request = self.in_flight[exchange] = ActiveRequest(exchange, response, self.timing, self._loop)
        return request

    def discard(self, exchange: Exchange) -> None:
        """Unregister a request that has been answered, or has ended otherwise, and release its body."""
        exchange.release_body()
        self.in_flight.pop(exchange, None)
        if not self.in_flight:
            self._clock.unwatch(self)
            self._empty.set()

    def on_tick(self, now: float) -> None:
        """Pass a tick of the clock on to the requests in flight."""
        for request in tuple(self.in_flight.values()):
            request.on_tick(now)
        if self._observers.loop_ticked:
            self._observers.notify(self._observers.loop_ticked, self._clock.late)

    async def drain(self, timeout: float) -> None:
        """Refuse new requests, wait `timeout` seconds for those in flight, abort the rest, await background tasks."""
        self.draining = True
        if not await self._wait_until_empty(timeout):
            _log.warning("aborting %d requests that were still in flight after %g s", len(self.in_flight), timeout)
            for request in tuple(self.in_flight.values()):
                request.abort(ShuttingDown())
            await self._wait_until_empty(self.timing.abort_within)
        await self.tasks.drain(self.timing.settle_within)

    async def aclose(self) -> None:
        """Wait for background tasks, then close the connections to the store and the upstreams."""
        self.model_lists.close()
        await self.tasks.drain(self.timing.settle_within)
        if self._close_store is not None:
            await self._close_store()
        await self.client.aclose()

    async def _wait_until_empty(self, timeout: float) -> bool:
        self._empty.clear()
        if self.in_flight:
            with suppress(TimeoutError):
                await asyncio.wait_for(self._empty.wait(), timeout)
        return not self.in_flight


class PerLoop:
    """Resources by event loop: made on first use, closed with the lifespan, or else when their loop ends.

    A test client may run each request in an event loop of its own, and hardly any host runs the lifespan of an app that
    it mounts. So each loop gets a keeper task; it is cancelled when the loop ends, and closes the loop's resources.
    """

    def __init__(
        self,
        client: Callable[[], HttpClient],
        providers: Sequence[Provider],
        timing: Timing,
        bodies: BodyBudget,
        hops: bytes = b"",
        close_store: Callable[[], Awaitable[None]] | None = None,
        observers: Observers = NO_OBSERVERS,
    ) -> None:
        self._client = client
        self._observers = observers
        self._close_store = close_store
        self.bodies = bodies
        self._providers = providers
        self._timing = timing
        self._hops = hops
        self._by_loop: dict[asyncio.AbstractEventLoop, tuple[LoopResources, asyncio.Task[None]]] = {}

    def get(self) -> LoopResources:
        """The resources of the running loop."""
        loop = asyncio.get_running_loop()
        kept = self._by_loop.get(loop)
        if kept is None:
            for ended in [other for other in self._by_loop if other.is_closed()]:
                del self._by_loop[ended]
            resources = LoopResources(
                self._client(),
                self._providers,
                self._timing,
                self.bodies,
                self._hops,
                self._close_store,
                self._observers,
            )
            keeper = loop.create_task(self._close_with_loop(loop, resources), name="bud_asgi keeper")
            kept = self._by_loop[loop] = (resources, keeper)
        return kept[0]

    def all(self) -> Sequence[LoopResources]:
        """The resources of all loops that run."""
        return [kept[0] for loop, kept in tuple(self._by_loop.items()) if not loop.is_closed()]

    def in_flight(self) -> Sequence[Exchange]:
        """The requests in flight in all loops; those for health checks are among them."""
        return [request.exchange for loop in self.all() for request in tuple(loop.in_flight.values())]

    async def drain(self, timeout: float) -> None:
        """Drain the running loop, if it has served anything."""
        kept = self._by_loop.get(asyncio.get_running_loop())
        if kept is not None:
            await kept[0].drain(timeout)

    async def aclose(self) -> None:
        """Close the resources of the running loop, if there are any."""
        resources, keeper = self._by_loop.pop(asyncio.get_running_loop(), (None, None))
        if resources is not None and keeper is not None:
            keeper.cancel()
            await asyncio.wait({keeper})
            await resources.aclose()

    async def _close_with_loop(self, loop: asyncio.AbstractEventLoop, resources: LoopResources) -> None:
        try:
            await loop.create_future()
        finally:
            self._by_loop.pop(loop, None)
            await resources.aclose()

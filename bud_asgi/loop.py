"""What belongs to one event loop: the HTTP client, the clock, the requests in flight, background tasks."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from typing import Protocol

import msgspec

from bud_asgi.budget import BodyBudget
from bud_asgi.clock import Clock, Timing
from bud_asgi.disconnect import ActiveRequest
from bud_asgi.exchange import Exchange
from bud_asgi.http import HttpClient, Origin, Pooling
from bud_asgi.models import UpstreamModelLists
from bud_asgi.observer import NO_OBSERVERS, Observers
from bud_asgi.protocol.errors import ShuttingDown
from bud_asgi.response import Response
from bud_asgi.tasks import BackgroundTasks

_LARGEST_KEPT = 8 << 20
"""Size in bytes up to which freed memory is kept for the next body rather than returned to the system."""

_log = logging.getLogger("bud_asgi")


class Serving(Protocol):
    """What serves a request, from its arrival to its end."""

    @property
    def revision(self) -> int:
        """The number of the configuration."""
        ...

    @property
    def bodies(self) -> BodyBudget:
        """The budget for request bodies, of all event loops."""
        ...

    @property
    def other_models(self) -> bool:
        """Whether there are providers whose models are not Anthropic's."""
        ...


class Closable(Protocol):
    """What has connections in each event loop."""

    async def aclose(self) -> None:
        """Close those of the running event loop; they are opened again when needed."""
        ...


class Closing(Protocol):
    """What is closed with a configuration, unless another one uses it too."""

    @property
    def revision(self) -> int:
        """The number of the configuration."""
        ...

    @property
    def closables(self) -> Collection[Closable]:
        """What has connections."""
        ...

    @property
    def origins(self) -> Collection[Origin]:
        """The servers that requests are sent to."""
        ...


class _Retired(msgspec.Struct, eq=False):
    """A configuration that serves no new requests, and the number of those that it still serves."""

    parts: Closing
    running: int


class LoopResources:
    """The resources of one event loop, and its registry of requests in flight.

    The registry serves drains, disconnects and pings: one clock, and one registration for each request. `in_use`
    returns the configurations that serve new requests. `observers` are notified of each tick. `now` is the loop's
    clock: to look up the running loop takes a system call in Python 3.11.
    """

    def __init__(
        self,
        client: HttpClient,
        timing: Timing,
        in_use: Callable[[], Sequence[Closing]],
        observers: Observers = NO_OBSERVERS,
    ) -> None:
        self.client = client
        self._observers = observers
        self.timing = timing
        self.model_lists = UpstreamModelLists(client)
        self.tasks = BackgroundTasks()
        self.in_flight: dict[Exchange, ActiveRequest] = {}
        self.draining = False
        self._in_use = in_use
        self._retired: dict[int, _Retired] = {}
        self._loop = asyncio.get_running_loop()
        self.now = self._loop.time
        self._clock = Clock(self._loop, tick=timing.tick)
        self._empty = asyncio.Event()
        # A page fault for each 4 KB costs more than copying them. glibc keeps blocks as large as the largest that has
        # been freed, and up to twice as much in all (`mallopt(3)`, "dynamic mmap threshold").
        bytes(_LARGEST_KEPT)

    def add(self, exchange: Exchange, response: Response, serving: Serving) -> ActiveRequest:
        """Register a request that has arrived, and equip its record."""
        bodies = serving.bodies
        exchange.tasks, exchange.max_body, exchange.upload.budget = self.tasks, bodies.max_body, bodies
        exchange.other_models, exchange.revision = serving.other_models, serving.revision
        if not self.in_flight:
            self._clock.watch(self)
        request = self.in_flight[exchange] = ActiveRequest(exchange, response, self.timing, self._loop)
        return request

    def discard(self, exchange: Exchange) -> None:
        """Unregister a request that has been answered, or has ended otherwise, and release its body."""
        if exchange.upload.size:  # else it has been released, when its reply began
            exchange.release_body()
        self.in_flight.pop(exchange, None)
        if self._retired:
            self._note_end(exchange.revision)
        if self.draining and not self.in_flight:
            self._empty.set()

    def retire(self, parts: Closing) -> None:
        """Close what only this configuration uses, when its last request has ended."""
        running = sum(exchange.revision == parts.revision for exchange in self.in_flight)
        self._retired[parts.revision] = _Retired(parts, running)
        if not running:
            self._close_later(parts)

    def on_tick(self, now: float) -> None:
        """Pass a tick of the clock on to the requests in flight. It is the last one if there are none."""
        for request in tuple(self.in_flight.values()):
            request.on_tick(now)
        if self._observers.loop_ticked:
            self._observers.notify(self._observers.loop_ticked, self._clock.late)
        if not self.in_flight:
            self._clock.unwatch(self)

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
        """Wait for background tasks, then close the connections to the stores and the upstreams."""
        self.model_lists.close()
        await self.tasks.drain(self.timing.settle_within)
        for parts in (*(one.parts for one in self._retired.values()), *self._in_use()):
            for closable in parts.closables:
                await closable.aclose()
        await self.client.aclose()

    def _note_end(self, revision: int) -> None:
        retired = self._retired.get(revision)
        if retired is not None:
            retired.running -= 1
            if not retired.running:
                self._close_later(retired.parts)

    def _close_later(self, parts: Closing) -> None:
        """Close what only this configuration uses, when its requests have been settled."""
        self.tasks.spawn_after_others(self._close(parts), self.timing.settle_within)

    async def _close(self, parts: Closing) -> None:
        self._retired.pop(parts.revision, None)
        others = (*(one.parts for one in self._retired.values()), *self._in_use())
        used = {id(one) for other in others for one in (*other.closables, *other.origins)}
        for closable in parts.closables:
            if id(closable) not in used:
                await closable.aclose()
        if isinstance(self.client, Pooling):
            for origin in parts.origins:
                if id(origin) not in used:
                    await self.client.forget(origin)

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
        timing: Timing,
        in_use: Callable[[], Sequence[Closing]],
        observers: Observers = NO_OBSERVERS,
    ) -> None:
        self._client = client
        self._observers = observers
        self._timing = timing
        self._in_use = in_use
        self._by_loop: dict[asyncio.AbstractEventLoop, tuple[LoopResources, asyncio.Task[None]]] = {}

    def get(self) -> LoopResources:
        """The resources of the running loop."""
        loop = asyncio.get_running_loop()
        kept = self._by_loop.get(loop)
        if kept is None:
            for ended in [other for other in self._by_loop if other.is_closed()]:
                del self._by_loop[ended]
            resources = LoopResources(self._client(), self._timing, self._in_use, self._observers)
            keeper = loop.create_task(self._close_with_loop(loop, resources), name="bud_asgi keeper")
            kept = self._by_loop[loop] = (resources, keeper)
        return kept[0]

    def all(self) -> Sequence[LoopResources]:
        """The resources of all loops that run."""
        return [kept[0] for loop, kept in tuple(self._by_loop.items()) if not loop.is_closed()]

    def in_flight(self) -> Sequence[Exchange]:
        """The requests in flight in all loops; those for health checks are among them."""
        return [request.exchange for loop in self.all() for request in tuple(loop.in_flight.values())]

    def retire(self, parts: Closing) -> None:
        """In each event loop, close what only this configuration uses when its last request there has ended."""
        try:
            running = asyncio.get_running_loop()
        except RuntimeError:
            running = None
        for loop, (resources, _) in list(self._by_loop.items()):
            if loop is running:
                resources.retire(parts)
            elif not loop.is_closed():
                with suppress(RuntimeError):  # it has been closed since
                    loop.call_soon_threadsafe(resources.retire, parts)

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

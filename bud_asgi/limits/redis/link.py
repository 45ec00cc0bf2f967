"""The connection of one event loop to a store: kept by a task of its own, which reconnects when it is lost."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Awaitable, Callable

from redis.exceptions import RedisError

from bud_asgi.limits.redis.channel import Channel
from bud_asgi.limits.redis.errors import CallFailed, ServerError
from bud_asgi.limits.redis.health import Health
from bud_asgi.limits.redis.scripts import Arguments, Script, call, numbers_of
from bud_asgi.limits.redis.timing import StoreTiming

_TRIES = 3
_ELSEWHERE = frozenset({"MOVED", "ASK", "READONLY", "LOADING", "CLUSTERDOWN", "MASTERDOWN"})
"""Errors of a node that does not hold the limits, or not any more, or not yet. It has executed nothing."""


class Link:
    """Calls scripts. `connect` finds the node and connects to it; `timeout` is the deadline of a call in seconds."""

    def __init__(
        self, connect: Callable[[], Awaitable[Channel]], *, timeout: float, timing: StoreTiming, health: Health
    ) -> None:
        self._connect = connect
        self._timeout = timeout
        self._timing = timing
        self._health = health
        self._loop = asyncio.get_running_loop()
        self._channel: Channel | None = None
        self._up = asyncio.Event()
        self._failures = 0  # since the last call that succeeded
        self._down = False  # calls do not wait for a connection
        self._keeper = self._loop.create_task(self._keep(), name="bud_asgi limit store")

    @property
    def closed(self) -> bool:
        """Whether it was closed, by its store or with its event loop."""
        return self._keeper.done()

    async def call(self, script: Script, arguments: Arguments, size: int) -> tuple[float, ...]:
        """Call a script, and return the `size` numbers that it replies with.

        Raises `CallFailed` after the deadline at the latest. Cancelled, the call may still be executed.
        """
        deadline = self._loop.time() + self._timeout
        command = call(script.by_hash, arguments)
        for _ in range(_TRIES):
            channel = self._channel or await self._connected(deadline)
            reply = await channel.send(command, deadline)
            numbers = numbers_of(reply, size)
            if numbers is not None:
                self._worked()
                return numbers
            code = self._code_of(reply, channel)
            if code == "NOSCRIPT":
                command = call(script.by_source, arguments)
            else:
                channel.close(f"the server replied {code}")
                if self._channel is channel:
                    self._channel = None
                    self._up.clear()
        raise self._failed(CallFailed("no node accepts the call", sent=False))

    async def aclose(self) -> None:
        """Close the connection."""
        self._keeper.cancel()
        await asyncio.wait({self._keeper})

    async def _connected(self, deadline: float) -> Channel:
        """The connection. Waits for the first one, and for one that replaces another, but not after a failure."""
        if not self._down:
            try:
                async with asyncio.timeout_at(deadline):
                    await self._up.wait()
            except TimeoutError:
                self._lost(f"no connection within {self._timeout:g} s")
        if self._channel is None:
            raise CallFailed("not connected", sent=False)
        return self._channel

    async def _keep(self) -> None:
        channel: Channel | None = None
        try:
            while True:
                channel = await self._try_to_connect()
                if channel is not None:
                    await self._use(channel)
                pause = self._timing.pause(self._failures)
                self._failures += 1
                await asyncio.sleep(pause)
        finally:
            self._channel = None
            if channel is not None:
                channel.close("the store was closed")

    async def _try_to_connect(self) -> Channel | None:
        try:
            async with asyncio.timeout(self._timing.connect_within):
                return await self._connect()
        except (OSError, UnicodeError, RedisError, CallFailed, ServerError) as error:  # UnicodeError: the host's name
            self._lost(_reason(error))
            return None

    async def _use(self, channel: Channel) -> None:
        """Wait until a channel is closed."""
        self._channel = channel
        self._up.set()
        await asyncio.wait({channel.closed})  # to await it would cancel it together with this task
        if self._channel is channel:
            self._channel = None
            self._up.clear()
        if self._failures:  # it has not worked since the last time
            self._lost(channel.closed.result())

    def _code_of(self, reply: object, channel: Channel) -> str:
        """The code of an error after which a call is sent again. Raises `CallFailed` for any other reply."""
        if isinstance(reply, CallFailed):
            raise self._failed(reply)
        if not isinstance(reply, ServerError):
            channel.close("the server sent an unexpected reply")
            raise self._failed(CallFailed("the server sent an unexpected reply", sent=True))
        if reply.code != "NOSCRIPT" and reply.code not in _ELSEWHERE:
            raise self._failed(CallFailed(f"the server replied {reply.code}", sent=False))
        return reply.code

    def _lost(self, reason: str) -> None:
        self._down = True
        self._up.set()  # calls that wait for it give up
        self._health.failed(reason)

    def _worked(self) -> None:
        if self._failures or self._down or not self._health.ok:
            self._failures = 0
            self._down = False
            self._health.worked()

    def _failed(self, error: CallFailed) -> CallFailed:
        self._down = True
        self._health.failed(error.reason)
        return error


def _reason(error: Exception) -> str:
    """Why a connection failed, without the texts of the server and the resolver."""
    if isinstance(error, CallFailed):
        return error.reason
    if isinstance(error, ServerError):
        return f"the server replied {error.code}"
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate was rejected ({error.verify_message})"
    return f"no connection ({type(error).__name__})"

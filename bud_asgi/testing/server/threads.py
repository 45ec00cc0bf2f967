"""The stand-in for synchronous code: the same server, on an event loop in its own thread."""

from __future__ import annotations

import asyncio
import ssl
import threading
from collections.abc import Coroutine
from concurrent.futures import Future
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TypeVar

from bud_asgi.testing.server.received import Received
from bud_asgi.testing.server.replies import Answer

if TYPE_CHECKING:
    from bud_asgi.testing.server.stand_in import StandIn

T = TypeVar("T")


class ThreadedStandIn:
    """A `StandIn` in its own thread, to use with `with`. It has the same names, but nothing is awaited."""

    def __init__(self, stand_in: StandIn) -> None:
        self._stand_in = stand_in
        self._ready: Future[asyncio.AbstractEventLoop] = Future()
        self._thread: threading.Thread | None = None
        self._stop = asyncio.Event()
        self._error: Exception | None = None

    def __enter__(self) -> Self:
        self._thread = threading.Thread(target=self._run, name="bud_asgi stand-in", daemon=True)
        self._thread.start()
        self._ready.result()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ready.result().call_soon_threadsafe(self._stop.set)
        if self._thread:
            self._thread.join()
        if self._error and error is None:
            raise self._error

    def _run(self) -> None:
        try:
            asyncio.run(self._serve())
        except Exception as error:  # noqa: BLE001 (raised again in the caller's thread)
            self._error = error
            if not self._ready.done():
                self._ready.set_exception(error)

    async def _serve(self) -> None:
        async with self._stand_in:
            self._ready.set_result(asyncio.get_running_loop())
            await self._stop.wait()

    def _call(self, awaited: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(awaited, self._ready.result()).result()

    @property
    def api_key(self) -> str:
        """See `StandIn.api_key`."""
        return self._stand_in.api_key

    @property
    def port(self) -> int:
        """See `StandIn.port`."""
        return self._stand_in.port

    @property
    def base_url(self) -> str:
        """See `StandIn.base_url`."""
        return self._stand_in.base_url

    @property
    def ca(self) -> ssl.SSLContext:
        """See `StandIn.ca`."""
        return self._stand_in.ca

    @property
    def requests(self) -> list[Received]:
        """See `StandIn.requests`."""
        return self._stand_in.requests

    @property
    def refused(self) -> list[Received]:
        """See `StandIn.refused`."""
        return self._stand_in.refused

    @property
    def unparsable(self) -> list[str]:
        """See `StandIn.unparsable`."""
        return self._stand_in.unparsable

    @property
    def connections_open(self) -> int:
        """See `StandIn.connections_open`."""
        return self._stand_in.connections_open

    @property
    def connections_made(self) -> int:
        """See `StandIn.connections_made`."""
        return self._stand_in.connections_made

    @property
    def closed_on_reuse(self) -> int:
        """See `StandIn.closed_on_reuse`."""
        return self._stand_in.closed_on_reuse

    def enqueue(self, *replies: Answer) -> None:
        """See `StandIn.enqueue`."""
        self._stand_in.enqueue(*replies)

    def always(self, reply: Answer | None) -> None:
        """See `StandIn.always`."""
        self._stand_in.always(reply)

    def accept_connections(self) -> None:
        """See `StandIn.accept_connections`."""
        self._call(self._stand_in.accept_connections())

    def refuse_connections(self, *, drop_open: bool = False) -> None:
        """See `StandIn.refuse_connections`."""
        self._call(self._stand_in.refuse_connections(drop_open=drop_open))

    def drop_connections(self) -> None:
        """See `StandIn.drop_connections`."""
        self._call(self._stand_in.drop_connections())

    def wait_requests(self, count: int = 1, timeout: float = 5.0) -> list[Received]:
        """See `StandIn.wait_requests`."""
        return self._call(self._stand_in.wait_requests(count, timeout))

    def wait_aborted(self, timeout: float = 5.0) -> Received:
        """See `StandIn.wait_aborted`."""
        return self._call(self._stand_in.wait_aborted(timeout))

    def wait_connections(self, count: int = 0, timeout: float = 5.0) -> None:
        """See `StandIn.wait_connections`."""
        self._call(self._stand_in.wait_connections(count, timeout))

"""The stand-in itself: listens, replies, and records requests."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections import deque
from collections.abc import Callable, Iterable
from types import TracebackType
from typing import Self, TypeVar

from bud_asgi.testing.anthropic.check_request import make_rules
from bud_asgi.testing.anthropic.models import MODELS, Model, catalogue
from bud_asgi.testing.anthropic.service import MAX_BODY, AnthropicApi
from bud_asgi.testing.server.certificates import Certificates, TlsKind, certificates
from bud_asgi.testing.server.connection import Connection
from bud_asgi.testing.server.received import Received
from bud_asgi.testing.server.replies import Answer, Failure, Reply
from bud_asgi.testing.server.reply_writer import write_reply
from bud_asgi.testing.server.service import Service
from bud_asgi.testing.server.threads import ThreadedStandIn
from bud_asgi.testing.server.watchdog import BlockedLoopWatchdog

T = TypeVar("T")

HOST = "127.0.0.1"


class StandIn:
    """A stand-in for Anthropic's Messages API: a real HTTP server on 127.0.0.1, with `async with`.

    It accepts `api_key` as `x-api-key` or as a bearer token, and rejects what the service rejects, with the same
    errors. `strict=False` accepts any request. `models` are those that it lists and accepts, as `Model` or as an id; if
    `None`, it lists an example, and accepts every name except retired models and names with "does-not-exist" in them.
    `betas` are the beta flags that it accepts, all if `None`. `signer`, any name, signs the thinking blocks of its
    replies, and blocks that another has signed are refused; with `None`, none are. `tls` serves HTTPS with a
    certificate of that kind (needs the extra `bud-asgi[testing]`). `max_body` is in bytes. Ids and padding are made
    from `seed`. `send_buffer` limits the kernel's send buffer of each connection, in bytes. `port` is the port; 0 takes
    a free one.

    Leaving the block closes every connection, and raises the first exception of a reply function, if any, or
    `RuntimeError` if the event loop was blocked while a client waited to connect.
    """

    def __init__(  # noqa: PLR0913 - one for each thing that tests vary
        self,
        *,
        api_key: str = "sk-ant-upstream",
        strict: bool = True,
        models: Iterable[str | Model] | None = None,
        betas: Iterable[str] | None = None,
        signer: str | None = None,
        tls: TlsKind | None = None,
        max_body: int = MAX_BODY,
        seed: int = 0,
        send_buffer: int | None = None,
        port: int = 0,
    ) -> None:
        self.api_key = api_key
        self.requests: list[Received] = []
        """Every request whose head arrived, in order, including rejected and incomplete ones."""
        self.connections_made = 0
        """The number of connections accepted so far."""
        self.closed_on_reuse = 0
        """The number of connections that `close_on_reuse` has closed."""
        self.unparsable: list[str] = []
        """The parser's errors for data that was not HTTP."""
        listed = None if models is None else catalogue(models)
        rules = make_rules(api_key, listed, betas, signer) if strict else None
        self.service: Service = AnthropicApi(rules, MODELS if listed is None else listed, signer or "")
        """The service that it stands in for."""
        self._tls, self._max_body, self._seed, self._send_buffer = tls, max_body, seed, send_buffer
        self._certificates: Certificates | None = None
        self._queue: deque[Answer] = deque()
        self._always: Answer | None = None
        self._connections: set[Connection] = set()
        self._server: asyncio.Server | None = None
        self._watchdog: BlockedLoopWatchdog | None = None
        self._port = port
        self._changed = asyncio.Event()
        self._reported_aborts: set[Received] = set()
        self._failures: list[Exception] = []

    @classmethod
    def of(cls, service: Service, *, tls: TlsKind | None = None, seed: int = 0, send_buffer: int | None = None) -> Self:
        """Make a stand-in for another service, such as `Bedrock`. The other parameters are those of the class."""
        stand_in = cls(tls=tls, max_body=service.max_body, seed=seed, send_buffer=send_buffer)
        stand_in.service = service
        return stand_in

    @property
    def port(self) -> int:
        """The port. It stays the same while connections are refused."""
        return self._port

    @property
    def base_url(self) -> str:
        """The base URL for clients, without a trailing slash."""
        return f"{'https' if self._tls else 'http'}://{HOST}:{self._port}"

    @property
    def ca(self) -> ssl.SSLContext:
        """A TLS context for clients, which trusts the stand-in's authority (but that of `unknown-ca` is another).

        Raises `ValueError` without TLS.
        """
        if self._certificates is None:
            raise ValueError("this stand-in has no TLS")
        return self._certificates.client

    @property
    def connections_open(self) -> int:
        """The number of connections that are open now."""
        return len(self._connections)

    @property
    def refused(self) -> list[Received]:
        """The requests that were rejected as invalid: what a gateway must never send."""
        return [request for request in self.requests if request.refusal is not None]

    def enqueue(self, *replies: Answer) -> None:
        """Set the replies to the next valid requests, one each. Callable from any thread.

        An invalid request takes none of them.
        """
        self._queue.extend(replies)

    def always(self, reply: Answer | None) -> None:
        """Set the reply to valid requests while the queue is empty; `None`: the default. Callable from any thread."""
        self._always = reply

    def in_thread(self) -> ThreadedStandIn:
        """Return the same stand-in for synchronous code, to use with `with`. It runs in its own thread."""
        return ThreadedStandIn(self)

    async def __aenter__(self) -> Self:
        if self._tls:
            self._certificates = certificates(self._tls, HOST)
        await self.accept_connections()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.refuse_connections(drop_open=True)
        if self._failures and error is None:
            raise self._failures[0]

    async def accept_connections(self) -> None:
        """Listen again, on the same port. Does nothing if it already listens."""
        if self._server is not None:
            return
        context = self._certificates.server if self._certificates else None
        loop = asyncio.get_running_loop()
        listener = _listen(self._port)
        self._port = listener.getsockname()[1]
        self._watchdog = BlockedLoopWatchdog(listener, self._failures.append)
        self._server = await loop.create_server(self._make_connection, sock=listener, ssl=context, backlog=1024)

    async def refuse_connections(self, *, drop_open: bool = False) -> None:
        """Stop listening, so that connecting fails at once. `drop_open` closes the open connections too."""
        if self._watchdog is not None:
            self._watchdog.stop()
            self._watchdog = None
        if self._server is not None:
            self._server.close()
            self._server = None
        if drop_open:
            await self.drop_connections()

    async def drop_connections(self) -> None:
        """Close every open connection at once, even in the middle of a reply."""
        open_now = list(self._connections)
        tasks = [connection.task for connection in open_now if connection.task]
        for connection in open_now:
            connection.drop()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._wait(lambda: True if self._connections.isdisjoint(open_now) else None, 5.0)

    async def wait_requests(self, count: int = 1, timeout: float = 5.0) -> list[Received]:
        """Wait until `count` complete requests have arrived and return all of them.

        Raises `TimeoutError` after `timeout` seconds.
        """

        def arrived() -> list[Received] | None:
            complete = [request for request in self.requests if request.complete]
            return complete if len(complete) >= count else None

        return await self._wait(arrived, timeout)

    async def wait_aborted(self, timeout: float = 5.0) -> Received:
        """Wait until a client disconnects before its reply is complete. Returns each such request once.

        Raises `TimeoutError` after `timeout` seconds.
        """

        def aborted() -> Received | None:
            for request in self.requests:
                if request.aborted is not None and request not in self._reported_aborts:
                    self._reported_aborts.add(request)
                    return request
            return None

        return await self._wait(aborted, timeout)

    async def wait_connections(self, count: int = 0, timeout: float = 5.0) -> None:
        """Wait until exactly `count` connections are open. Raises `TimeoutError` after `timeout` seconds."""
        await self._wait(lambda: True if len(self._connections) == count else None, timeout)

    async def _wait(self, find: Callable[[], T | None], timeout: float) -> T:
        async with asyncio.timeout(timeout):
            while (found := find()) is None:
                await self._changed.wait()
        return found

    def _notify(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()

    def _make_connection(self) -> Connection:
        self.connections_made += 1
        return Connection(number=self.connections_made, max_body=self._max_body, events=self)

    # called by connections (`ConnectionEvents`)

    def on_open(self, connection: Connection) -> None:
        """See `ConnectionEvents`."""
        if self._send_buffer:
            connection.limit_send_buffer(self._send_buffer)
        self._connections.add(connection)
        self._notify()

    def on_close(self, connection: Connection) -> None:
        """See `ConnectionEvents`."""
        self._connections.discard(connection)
        self._notify()

    def on_reuse(self) -> None:
        """See `ConnectionEvents`."""
        self.closed_on_reuse += 1
        self._notify()

    def on_parse_error(self, message: str) -> None:
        """See `ConnectionEvents`."""
        self.unparsable.append(message)
        self._notify()

    def on_failure(self, error: Exception) -> None:
        """See `ConnectionEvents`. The error is raised on exit."""
        self._failures.append(error)

    def on_head(self, connection: int, method: bytes, target: bytes) -> Received:
        """See `ConnectionEvents`."""
        number = len(self.requests) + 1
        request_id = self.service.request_id(f"{self._seed}:{number}")
        received = Received(number=number, connection=connection, method=method, target=target, request_id=request_id)
        self.requests.append(received)
        return received

    async def on_request(self, connection: Connection, received: Received) -> bool:
        """See `ConnectionEvents`."""
        self._notify()
        reply = self._reply(received)
        body = self.service.render(reply.body, received, self._seed)
        headers = self.service.headers(received, reply)
        keep_alive = await write_reply(
            reply, body, headers, connection, method=received.method, keep_alive=connection.keep_alive
        )
        received.done = True
        self._notify()
        return keep_alive

    def _reply(self, received: Received) -> Reply:
        rejection = self.service.check(received)
        if rejection is not None:
            received.refusal = rejection.message
            return rejection.reply
        answer = self._queue.popleft() if self._queue else self._always or self.service.answer
        if isinstance(answer, Reply):
            return answer
        try:
            return answer(received)
        except Exception as error:  # noqa: BLE001 (the test's own function; raised again on exit)
            self._failures.append(error)
            return Reply(status=500, body=Failure("api_error", f"The test's reply function failed: {error!r}"))


def _listen(port: int) -> socket.socket:
    # asyncio sets TCP_NODELAY only on sockets whose protocol number is that of TCP, which `create_server` leaves at 0
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((HOST, port))
        listener.listen(1024)
    except OSError:
        listener.close()
        raise
    return listener

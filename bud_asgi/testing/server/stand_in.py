"""The stand-in itself: listens, judges, answers, and remembers what it saw."""

from __future__ import annotations

import asyncio
import ssl
from collections import deque
from collections.abc import Callable, Iterable
from types import TracebackType
from typing import Self, TypeVar

from bud_asgi.testing.anthropic.models import MODELS, Model, catalogue
from bud_asgi.testing.anthropic.request import rules_for
from bud_asgi.testing.anthropic.service import MAX_BODY, FirstParty
from bud_asgi.testing.server.certificates import Certificates, TlsKind, certificates
from bud_asgi.testing.server.connection import Connection
from bud_asgi.testing.server.received import Received
from bud_asgi.testing.server.replies import Answer, Failure, Reply
from bud_asgi.testing.server.service import Service
from bud_asgi.testing.server.threads import ThreadedStandIn
from bud_asgi.testing.server.writing import perform

T = TypeVar("T")

HOST = "127.0.0.1"


class StandIn:
    """A stand-in for Anthropic's Messages API: a real HTTP server on 127.0.0.1, with `async with`.

    It takes `api_key` as `x-api-key` or as a bearer token and refuses what the service refuses, in its words.
    `strict=False` takes any request at all. `models` are those that it lists and answers for, as `Model` or as an id;
    if `None` it lists an example and answers for every name but retired ones and those with "does-not-exist" in them.
    `betas` are the beta flags it knows, all if `None`. `tls` serves HTTPS with a certificate of that kind (needs the
    extra `bud-asgi[testing]`). `max_body` is in bytes. Ids and paddings come from `seed`. `send_buffer` bounds the
    kernel's send buffer of each connection, in bytes.

    On the way out everything is closed. Raises what a reply function of the test raised, if one did.
    """

    def __init__(
        self,
        *,
        api_key: str = "sk-ant-upstream",
        strict: bool = True,
        models: Iterable[str | Model] | None = None,
        betas: Iterable[str] | None = None,
        tls: TlsKind | None = None,
        max_body: int = MAX_BODY,
        seed: int = 0,
        send_buffer: int | None = None,
    ) -> None:
        self.api_key = api_key
        self.requests: list[Received] = []
        """Every request whose head arrived, in order; also refused and unfinished ones."""
        self.connections_made = 0
        """How many connections were accepted so far."""
        self.closed_on_reuse = 0
        """How many connections died as `close_on_reuse` wants it."""
        self.unparsable: list[str] = []
        """What was no HTTP at all: the parser's words."""
        listed = None if models is None else catalogue(models)
        rules = rules_for(api_key, listed, betas) if strict else None
        self.service: Service = FirstParty(rules, MODELS if listed is None else listed)
        """What it stands in for."""
        self._tls, self._max_body, self._seed, self._send_buffer = tls, max_body, seed, send_buffer
        self._certificates: Certificates | None = None
        self._queue: deque[Answer] = deque()
        self._always: Answer | None = None
        self._connections: set[Connection] = set()
        self._server: asyncio.Server | None = None
        self._port = 0
        self._changed = asyncio.Event()
        self._told_aborted: set[int] = set()
        self._failures: list[Exception] = []

    @classmethod
    def of(cls, service: Service, *, tls: TlsKind | None = None, seed: int = 0, send_buffer: int | None = None) -> Self:
        """A stand-in for another service; the rest is as above."""
        made = cls(tls=tls, max_body=service.max_body, seed=seed, send_buffer=send_buffer)
        made.service = service
        return made

    @property
    def port(self) -> int:
        """The port; it stays the same while connections are refused."""
        return self._port

    @property
    def base_url(self) -> str:
        """Where clients find it, without a trailing slash."""
        return f"{'https' if self._tls else 'http'}://{HOST}:{self._port}"

    @property
    def ca(self) -> ssl.SSLContext:
        """A context for clients that trusts the stand-in's authority (which `unknown-ca` certificates are not of).

        Raises `ValueError` without TLS.
        """
        if self._certificates is None:
            raise ValueError("this stand-in has no TLS")
        return self._certificates.client

    @property
    def connections_open(self) -> int:
        """How many connections are open now."""
        return len(self._connections)

    @property
    def refused(self) -> list[Received]:
        """The requests that the judge refused: what a gateway must never have sent."""
        return [request for request in self.requests if request.refusal is not None]

    def enqueue(self, *replies: Answer) -> None:
        """Give the next valid requests these replies, one each; then the default again. Safe from any thread.

        A request that the judge refuses takes none.
        """
        self._queue.extend(replies)

    def always(self, reply: Answer | None) -> None:
        """Give every valid request this reply once the queue is empty; `None`: the default. Safe from any thread."""
        self._always = reply

    def in_thread(self) -> ThreadedStandIn:
        """The same for synchronous code: `with StandIn().in_thread() as upstream`, on a loop in a thread of its own."""
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
        """Listen again, on the same port. May be called twice."""
        if self._server is not None:
            return
        context = self._certificates.server if self._certificates else None
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(self._connection, HOST, self._port, ssl=context, backlog=1024)
        self._port = self._server.sockets[0].getsockname()[1]

    async def refuse_connections(self, *, drop_open: bool = False) -> None:
        """Stop listening: connecting fails at once. `drop_open` closes open connections too. May be called twice."""
        if self._server is not None:
            self._server.close()
            self._server = None
        if drop_open:
            await self.drop_connections()

    async def drop_connections(self) -> None:
        """Close every open connection now, whatever is happening on it."""
        open_now = list(self._connections)
        tasks = [connection.task for connection in open_now if connection.task]
        for connection in open_now:
            connection.drop()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._wait(lambda: True if self._connections.isdisjoint(open_now) else None, 5.0)

    async def wait_requests(self, count: int = 1, timeout: float = 5.0) -> list[Received]:
        """Wait until `count` requests have arrived whole; all of those. Raises `TimeoutError` after so many seconds."""

        def arrived() -> list[Received] | None:
            whole = [request for request in self.requests if request.complete]
            return whole if len(whole) >= count else None

        return await self._wait(arrived, timeout)

    async def wait_aborted(self, timeout: float = 5.0) -> Received:
        """Wait until the peer of a request goes away before its reply is whole; each such request is told once.

        Raises `TimeoutError` after so many seconds.
        """

        def aborted() -> Received | None:
            for request in self.requests:
                if request.aborted is not None and request.number not in self._told_aborted:
                    self._told_aborted.add(request.number)
                    return request
            return None

        return await self._wait(aborted, timeout)

    async def wait_connections(self, count: int = 0, timeout: float = 5.0) -> None:
        """Wait until exactly `count` connections are open. Raises `TimeoutError` after so many seconds."""
        await self._wait(lambda: True if len(self._connections) == count else None, timeout)

    async def _wait(self, find: Callable[[], T | None], timeout: float) -> T:
        async with asyncio.timeout(timeout):
            while (found := find()) is None:
                await self._changed.wait()
        return found

    def _change(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()

    def _connection(self) -> Connection:
        self.connections_made += 1
        return Connection(number=self.connections_made, max_body=self._max_body, events=self)

    # what a connection tells (connection.Events)

    def opened(self, connection: Connection) -> None:
        """A connection was made."""
        if self._send_buffer:
            connection.bound_send_buffer(self._send_buffer)
        self._connections.add(connection)
        self._change()

    def closed(self, connection: Connection) -> None:
        """A connection is gone."""
        self._connections.discard(connection)
        self._change()

    def reused(self) -> None:
        """A doomed connection was used again."""
        self.closed_on_reuse += 1
        self._change()

    def garbled(self, words: str) -> None:
        """A connection brought what is no HTTP."""
        self.unparsable.append(words)
        self._change()

    def failed(self, error: Exception) -> None:
        """A reply could not be carried out: told on the way out."""
        self._failures.append(error)

    def begin(self, connection: int, method: bytes, target: bytes) -> Received:
        """The head of a request arrived."""
        number = len(self.requests) + 1
        request_id = self.service.request_id(f"{self._seed}:{number}")
        received = Received(number=number, connection=connection, method=method, target=target, request_id=request_id)
        self.requests.append(received)
        return received

    async def serve(self, connection: Connection, received: Received) -> bool:
        """A request arrived, whole or known to be too large: answer it."""
        self._change()
        reply = self._reply(received)
        body = self.service.render(reply.body, received, self._seed)
        headers = self.service.headers(received, reply)
        going = await perform(reply, body, headers, connection, method=received.method, keep=connection.keep)
        received.done = True
        self._change()
        return going

    def _reply(self, received: Received) -> Reply:
        refused = self.service.refuse(received)
        if refused is not None:
            received.refusal = refused.message
            return refused.reply
        answer = self._queue.popleft() if self._queue else self._always or self.service.answer
        if isinstance(answer, Reply):
            return answer
        try:
            return answer(received)
        except Exception as error:  # noqa: BLE001 (the test's own function; raised again on the way out)
            self._failures.append(error)
            return Reply(status=500, body=Failure("api_error", f"The test's reply function failed: {error!r}"))

"""A gateway in a host that uvicorn serves in a thread, and a check that nothing is left open."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from typing import Any, cast

import httpx
from starlette.applications import Starlette
from starlette.types import ASGIApp, Scope

from bud_asgi import Anthropic, ApiKeys, Exchange, MessagesApp, Observer, hash_api_key
from bud_asgi.clock import Timing
from bud_asgi.http import Engine, Timeouts
from bud_asgi.providers import Provider
from bud_asgi.testing import Answer, Reply, ThreadedStandIn
from support.calls import BODY, HEADERS, KEY, UPSTREAM_KEY
from support.serving import serving
from support.waiting import wait_until

PATIENT = Timeouts(30.0, 60.0, 60.0)
"""A provider's timeouts that are too long for a test to reach, also on a busy machine."""

SHORT = Timeouts(30.0, 0.5, 0.5)
"""The timeouts where an upstream is silent."""


class _Arrivals(Observer):
    """Keeps the records of requests in the order of their arrival: the one that came first may be settled last."""

    def __init__(self) -> None:
        self.begun: list[Exchange] = []

    def request_started(self, exchange: Exchange, scope: Scope) -> None:
        self.begun.append(exchange)


class Gateway:
    """A running gateway: its URLs, the records of settled requests, its engines and its tasks."""

    messages: MessagesApp

    def __init__(self, base_url: str) -> None:
        self.base_url = base_url
        self.host_url = base_url
        self.settled: list[Exchange] = []
        self.engines: list[Engine] = []
        self.arrivals = _Arrivals()

    async def on_settled(self, exchange: Exchange) -> None:
        self.settled.append(exchange)

    def new_engine(self) -> Engine:
        self.engines.append(Engine())
        return self.engines[-1]

    def account(self) -> Exchange:
        """The record of the latest request, once it is settled."""
        wait_until(lambda: bool(self.arrivals.begun), "a request")
        latest = self.arrivals.begun[-1]
        wait_until(lambda: latest in self.settled, "the latest request is settled")
        return latest

    def accounts(self, count: int) -> list[Exchange]:
        """The records of `count` requests in the order of their arrival, once all of them are settled."""
        wait_until(lambda: len(self.settled) >= count, f"{count} accounts")
        assert len(self.settled) == len(self.arrivals.begun) == count
        return list(self.arrivals.begun)

    def forget(self) -> None:
        """Forget the records of earlier requests, once all of those are settled."""
        self.wait_idle()
        self.settled.clear()
        self.arrivals.begun.clear()

    def post(self, body: Any = None, *, headers: Mapping[str, str] | None = None, **more: Any) -> httpx.Response:
        """Send one request on a new connection. `body` is fields that replace those of `BODY`, or the bytes to send."""
        content: dict[str, Any] = {"content": body} if isinstance(body, bytes) else {"json": {**BODY, **(body or {})}}
        lines = cast("dict[str, str]", HEADERS if headers is None else headers)
        return httpx.post(f"{self.base_url}/v1/messages", headers=lines, timeout=30, verify=False, **content, **more)

    def wait_idle(self) -> None:
        """Wait until no request is in flight and the records of all are in `settled`."""
        wait_until(lambda: not self.messages._loops.in_flight(), "requests in flight")
        wait_until(lambda: not any(loop.tasks for loop in self.messages._loops.all()), "background tasks")

    def assert_nothing_open(self) -> None:
        """Assert that no request is in flight or holds a connection, and that no task of a request is running."""
        self.wait_idle()
        wait_until(lambda: all(engine.open == engine.idle for engine in self.engines), "connections in use")
        wait_until(lambda: not self._tasks(), f"tasks left: {self._tasks()}")

    def _tasks(self) -> list[str]:
        loops = [loop for loop in tuple(self.messages._loops._by_loop) if loop.is_running()]
        return [name for loop in loops for name in asyncio.run_coroutine_threadsafe(_tasks(), loop).result(30)]


def tasks_in_flight() -> list[str]:
    """The tasks that the gateway runs for requests, in the running loop."""
    names = [task.get_name() for task in asyncio.all_tasks()]
    of_the_loop = {"bud_asgi keeper", "bud_asgi limit store"}
    return [name for name in names if name.startswith("bud_asgi") and name not in of_the_loop]


def assert_upstream_ends(upstream: ThreadedStandIn, since: float) -> None:
    """An upstream request is aborted soon after `since` on the monotonic clock: within a second on an idle machine."""
    ended = upstream.wait_aborted(30.0)
    assert ended.aborted is not None
    assert ended.aborted - since < 5.0


@contextmanager
def timed(messages: MessagesApp, timing: Timing) -> Generator[None]:
    """Change the durations of a running app inside the block."""
    usual = messages._timing
    _retime(messages, timing)
    try:
        yield
    finally:
        _retime(messages, usual)


def _retime(messages: MessagesApp, timing: Timing) -> None:
    messages._timing = messages._loops._timing = timing
    for resources, _ in messages._loops._by_loop.values():
        resources.timing = timing


def set_timeouts(provider: Provider, timeouts: Timeouts) -> None:
    """Change the timeouts of a provider in use."""
    cast("Anthropic", provider)._timeouts = timeouts  # those of other services have the same attribute


@contextmanager
def impatient(here: Gateway, *replies: Answer) -> Generator[None]:
    """Let the providers give up soon inside the block, if one of these replies is silent: only that may take long."""
    silent = any(isinstance(reply, Reply) and reply.end == "hang" for reply in replies)
    for provider in here.messages.providers:
        set_timeouts(provider, SHORT if silent else PATIENT)
    try:
        yield
    finally:
        for provider in here.messages.providers:
            set_timeouts(provider, PATIENT)


def forget_health(here: Gateway) -> None:
    """Forget what earlier requests have shown of the targets."""
    here.messages._revisions.current.gateway._chooser.fleet._known.clear()


def without_budget(here: Gateway) -> None:
    """Let a gateway retry without limit: the tests of one module fail more often than a tenth of their requests."""
    here.messages._revisions.current.gateway._upstreams.budget._floor = 1_000_000


async def _tasks() -> list[str]:
    return tasks_in_flight()


def provider(base_url: str, **more: Any) -> Anthropic:
    """The Anthropic provider against a stand-in."""
    options: dict[str, Any] = {"timeouts": PATIENT, "api_key": UPSTREAM_KEY, **more}
    return Anthropic(base_url=base_url, **options)


def messages_app(upstream_url: str, **options: Any) -> MessagesApp:
    """An app with one API key (unless `middleware` is given) and one provider; `options` are the app's."""
    settings: dict[str, Any] = options if "providers" in options else {"providers": [provider(upstream_url)], **options}
    if "middleware" not in settings:
        settings = {"auth": ApiKeys({"me": hash_api_key(KEY)}), **settings}
    return MessagesApp(**settings)


@contextmanager
def gateway(
    upstream_url: str, *, wrap: Callable[[ASGIApp], ASGIApp] | None = None, **options: Any
) -> Generator[Gateway]:
    """A Starlette host with the app installed at `/llm`; `options` are the app's. `wrap` wraps the host."""
    here = Gateway("")
    settings: dict[str, Any] = {"client": here.new_engine, "on_settled": here.on_settled, **options}
    settings["observers"] = [here.arrivals, *settings.get("observers", ())]
    messages = messages_app(upstream_url, **settings)
    here.messages = messages
    host = Starlette()
    messages.install(host, "/llm")
    with serving(wrap(host) if wrap else host) as url:
        here.host_url, here.base_url = url, f"{url}/llm"
        yield here

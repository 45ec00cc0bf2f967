"""`messages.state()` and `messages.readiness()`: what they report, by the part that it comes from."""

from __future__ import annotations

import asyncio
import json
import re
from pathlib import Path
from typing import Any, get_args

import msgspec
import pytest
from support.asgi import Receiving, Sent, chunks, http_scope
from support.calls import BODY

from bud_asgi import Anonymous, Anthropic, ApiKeys, Limit, MessagesApp, Route, Target, __version__, hash_api_key
from bud_asgi.auth import KeyStoreUnavailable
from bud_asgi.http import HttpRequest
from bud_asgi.protocol.headers import Headers
from bud_asgi.providers.errors import UpstreamUnavailable
from bud_asgi.providers.refresher import Expiring, FetchFailed, Refresher, RefreshStatus, RefreshTiming
from bud_asgi.state import AppState, CredentialState, LimitState, ReasonCode, RetryBudgetState, RouteState
from bud_asgi.testing import StandIn, error, stall, text

VERSION = (b"anthropic-version", b"2023-06-01")


def app(upstream: str = "http://127.0.0.1:9", **options: Any) -> MessagesApp:
    provider = Anthropic(name="one", api_key="sk-ant-x", base_url=upstream)
    settings: dict[str, Any] = {"providers": [provider], "auth": Anonymous(), **options}
    return MessagesApp(**settings)


async def post(messages: MessagesApp, **more: Any) -> int:
    sent = Sent()
    body = json.dumps({**BODY, **more}).encode()
    await messages(http_scope([VERSION]), Receiving(*chunks(body)), sent)
    return sent.status


async def ready(messages: MessagesApp) -> tuple[int, bytes]:
    sent = Sent()
    await messages(http_scope([], path="/readyz", method="GET"), Receiving(*chunks(b"")), sent)
    return sent.status, sent.body


def test_an_app_that_has_served_nothing() -> None:
    limits = [Limit("requests", 60), Limit("concurrent", 5, per="all")]
    state = app(
        limits=limits, routes=[Route("fast", [Target("one", "haiku")])], max_body=1000, body_budget=2000
    ).state()
    assert (state.version, state.revision, state.ready, state.reasons) == (__version__, 1, True, ())
    assert (state.requests, state.streams, state.waiting, state.background_tasks) == (0, 0, 0, 0)
    assert (state.body_bytes, state.body_budget, state.pools) == (0, 2000, ())
    assert [(one.target, one.state, one.calls) for one in state.targets] == [(Target("one", "haiku"), "up", 0)]
    assert state.routes == (RouteState("fast", (Target("one", "haiku"),), down=False),)
    assert state.credentials == (CredentialState("one", None, None, usable=True, failing=False),)
    assert state.limits == (
        LimitState("60 requests per minute", "requests/60/principal/enforce", "principal", 60, None),
        LimitState("5 concurrent requests", "concurrent//all/enforce", "all", 5, 0.0),
    )
    assert state.retry_budget == RetryBudgetState(0, 0, 3.0, 0, 0, 0)
    assert 0.0 <= state.uptime < 10.0
    assert msgspec.json.decode(msgspec.json.encode(state), type=AppState) == state


async def test_what_is_in_flight() -> None:
    async with StandIn(strict=False) as upstream:
        upstream.always(stall(30.0, after_bytes=700, reply=text("Hello " * 50)))
        messages = app(upstream.base_url, limits=[Limit("concurrent", 5, per="all")])
        async with messages.lifespan():
            running = asyncio.ensure_future(post(messages, stream=True))
            while not messages.state().streams:  # noqa: ASYNC110 - what is polled is what is tested
                await asyncio.sleep(0.005)
            state = messages.state()
            assert (state.requests, state.streams) == (1, 1)
            (target,), (pool,), (limit,) = state.targets, state.pools, state.limits
            assert (target.in_flight, target.calls, target.state, target.breaker) == (1, 1, "up", "closed")
            assert target.first_byte is not None
            assert (pool.origin, pool.busy, pool.idle) == (f"127.0.0.1:{upstream.port}", 1, 0)
            assert limit.used == 1.0
            running.cancel()
            await asyncio.wait({running})
            state = messages.state()
            assert (state.requests, state.streams, state.targets[0].in_flight, state.limits[0].used) == (0, 0, 0, 0.0)


async def test_a_target_that_fails_and_its_route() -> None:
    async with StandIn(strict=False) as upstream:
        upstream.always(error(529, "overloaded_error", "internal-name", headers={"retry-after": "30"}))
        messages = app(upstream.base_url)
        async with messages.lifespan():
            assert await post(messages) == 529
            state = messages.state()
            (target,), (reason,) = state.targets, state.reasons
            assert (target.state, target.breaker, target.failures) == ("down", "closed", 1)
            assert target.retry_in is not None
            assert 29.0 < target.retry_in <= 30.0
            assert (target.reason, target.last_failure) == ("rate limited or overloaded",) * 2
            assert target.last_failure_age is not None
            assert (reason.code, reason.blocks, state.ready) == ("route", False, True)
            assert "internal-name" not in repr(state)
            assert await ready(messages) == (200, b"")  # another process would not do better


async def test_a_drain_is_not_ready() -> None:
    messages = app()
    async with messages.lifespan():
        assert await ready(messages) == (200, b"")
        await messages.drain(0)
        for readiness in (messages.state(), await messages.readiness()):
            assert [(reason.code, reason.blocks) for reason in readiness.reasons] == [("draining", True)]
            assert readiness.ready is False
        assert await ready(messages) == (503, b"")


class Store:
    """A key store that fails."""

    async def find(self, key_hash: str) -> None:
        raise KeyStoreUnavailable("postgresql://secret")


async def test_a_key_store_that_fails() -> None:
    messages = app(auth=ApiKeys({"me": hash_api_key("sk-other")}, store=Store()))
    assert messages.state().ready  # it has not been called yet
    readiness = await messages.readiness()
    assert [(reason.code, reason.blocks) for reason in readiness.reasons] == [("key_store", True)]
    assert messages.state().ready is readiness.ready is False
    assert "secret" not in repr(readiness)
    assert await ready(messages) == (503, b'{"authentication":"unavailable"}')


class Fetched:
    """A credential that is fetched."""

    is_operators = True

    def __init__(self) -> None:
        self.now, self.fails = 1000.0, False
        timing = RefreshTiming(clock=lambda: self.now, monotonic=lambda: self.now)
        self.refresher = Refresher(self._fetch, str, "keys", timing)

    async def _fetch(self) -> Expiring[str]:
        if self.fails:
            raise FetchFailed("a reason with a secret")
        return Expiring(f"value-{self.now}", self.now + 100.0)

    async def apply(self, request: HttpRequest, client: Headers) -> HttpRequest:
        await self.refresher.value()
        return request

    async def refresh(self, refused: HttpRequest) -> bool:
        return False

    def redact(self, text: str) -> str:
        return text

    def status(self) -> RefreshStatus | None:
        return self.refresher.status()


async def test_the_age_of_a_credential() -> None:
    messages, credential = app(), Fetched()
    provider: Any = next(iter(messages._revisions.current.gateway.providers))
    provider.credential = credential

    def state() -> CredentialState:
        return messages.state().credentials[0]

    assert state() == CredentialState("one", None, None, usable=True, failing=False)  # it is fetched on first use
    await credential.refresher.value()
    credential.now += 10.0
    assert state() == CredentialState("one", 10.0, 90.0, usable=True, failing=False)
    credential.now, credential.fails = 1090.0, True
    credential.refresher.current()
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert state() == CredentialState("one", 90.0, 10.0, usable=True, failing=True)
    credential.now = 1101.0
    with pytest.raises(UpstreamUnavailable):
        await credential.refresher.value()
    assert state() == CredentialState("one", 101.0, -1.0, usable=False, failing=True)
    (reason,) = (await messages.readiness()).reasons
    assert (reason.code, reason.message, reason.blocks) == (
        "credential",
        "the credential of one cannot be fetched",
        False,
    )
    assert "value-" not in repr(messages.state())
    assert "secret" not in repr(messages.state())


def test_the_state_is_available_without_a_loop_and_from_other_threads() -> None:
    messages = app()

    async def serve() -> AppState:
        assert await post(messages) >= 500  # nothing listens
        return await asyncio.to_thread(messages.state)

    assert asyncio.run(serve()).targets[0].calls == 1
    assert messages.state().requests == 0


def test_every_reason_is_documented() -> None:
    docs = (Path(__file__).parent.parent / "docs/observability.md").read_text()
    rows = re.findall(
        r"^\| `(\w+)` \| ", docs.partition("### State and readiness")[2].partition("\n## ")[0], re.MULTILINE
    )
    assert rows == list(get_args(ReasonCode))

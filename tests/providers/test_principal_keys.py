"""Upstream keys by principal: cached, fetched once at a time, renewed when refused, kept through an outage."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.counts import examples

from bud_asgi import Anthropic, Principal, Secret
from bud_asgi.options import OptionError
from bud_asgi.providers import principal_keys
from bud_asgi.providers.principal_keys import SHORT_TTL, STALE, TTL, KeyUnavailable, NoUpstreamKey, PrincipalKeys

ANN, BOB = Principal(id="ann"), Principal(id="bob")


class Host:
    """A host with keys for its principals, and a clock."""

    def __init__(self, **keys: str | None) -> None:
        self.keys: dict[str, Any] = dict(keys)
        self.calls: list[str] = []
        self.now = 1000.0
        self.down = False
        self.cache = PrincipalKeys(self.key_of, lambda: self.now)

    async def key_of(self, principal: Principal) -> Any:
        self.calls.append(principal.id)
        await asyncio.sleep(0)
        if self.down:
            raise ConnectionError("the database is down")
        return self.keys.get(principal.id)

    async def get(self, principal: Principal = ANN) -> str:
        return (await self.cache.get(principal)).reveal()


async def test_a_key_is_fetched_once_until_it_is_old() -> None:
    host = Host(ann="key-1", bob="key-b")
    assert [await host.get(), await host.get(), await host.get(BOB)] == ["key-1", "key-1", "key-b"]
    host.keys["ann"], host.now = "key-2", host.now + TTL - 1
    assert await host.get() == "key-1"
    host.now += 1
    assert await host.get() == "key-2"
    assert host.calls == ["ann", "bob", "ann"]


async def test_teams_with_a_member_of_the_same_id_have_keys_of_their_own() -> None:
    cache = PrincipalKeys(lambda principal: f"key-of-{principal.team}")
    keys = [(await cache.get(Principal(id="ann", team=team))).reveal() for team in ("red", "blue")]
    assert keys == ["key-of-red", "key-of-blue"]


async def test_requests_at_the_same_time_share_one_fetch_and_one_that_is_cancelled_does_not_end_it() -> None:
    host = Host(ann="key-1")
    waiting = [asyncio.create_task(host.get()) for _ in range(10)]
    await asyncio.sleep(0)
    waiting[0].cancel()
    assert await asyncio.gather(*waiting[1:]) == ["key-1"] * 9
    assert host.calls == ["ann"]


async def test_without_a_key_the_caller_is_refused_and_the_host_asked_again_soon() -> None:
    host = Host()
    for _ in range(3):
        with pytest.raises(NoUpstreamKey):
            await host.get()
    host.keys["ann"], host.now = "key-1", host.now + SHORT_TTL
    assert await host.get() == "key-1"
    assert host.calls == ["ann", "ann"]


async def test_a_refused_key_is_fetched_again_but_not_at_once() -> None:
    host = Host(ann="key-1")
    first = await host.cache.get(ANN)
    assert await host.cache.renew(ANN, first) is first, "it was fetched just now"
    host.now += SHORT_TTL
    assert await host.cache.renew(ANN, first) is first, "the host has the same one"
    host.keys["ann"], host.now = "key-2", host.now + SHORT_TTL
    assert (await host.cache.renew(ANN, first)).reveal() == "key-2"
    assert (await host.cache.renew(ANN, first)).reveal() == "key-2", "another request has renewed it"
    assert host.calls == ["ann"] * 3


async def test_a_key_stays_in_use_for_an_hour_while_the_host_fails(caplog: pytest.LogCaptureFixture) -> None:
    host = Host(ann="sk-ant-canary-key")
    assert await host.get()
    host.down, host.now = True, host.now + TTL
    assert [await host.get(), await host.get()] == ["sk-ant-canary-key"] * 2
    assert host.calls == ["ann"] * 2, "the host is not called for each request"
    host.now += STALE
    with pytest.raises(KeyUnavailable):
        await host.get()
    with pytest.raises(KeyUnavailable):
        await host.get(BOB)
    assert "could not fetch the upstream key of the principal 'ann'" in caplog.text
    assert "canary" not in caplog.text


async def test_a_fetch_that_fails_after_all_have_left_is_not_reported_as_forgotten(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.ERROR, "asyncio")
    host = Host()
    host.down = True
    waiting = asyncio.create_task(host.get())
    await asyncio.sleep(0)
    waiting.cancel()
    for _ in range(5):
        await asyncio.sleep(0)
    assert "never retrieved" not in caplog.text


@pytest.mark.parametrize("key", [1, b"key", "", "a key\n"])
async def test_what_is_no_key_is_not_shown(key: Any, caplog: pytest.LogCaptureFixture) -> None:
    host = Host()
    host.keys["ann"] = key
    with pytest.raises(KeyUnavailable):
        await host.get()
    assert "the result of api_key()" in caplog.text


async def test_the_oldest_key_is_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(principal_keys, "MAX_KEYS", 2)
    host = Host(a="1", b="2", c="3")
    for name in ("a", "b", "c", "b", "c", "a"):
        await host.get(Principal(id=name))
    assert host.calls == ["a", "b", "c", "a"]


@examples(50, 2_000)
@given(st.lists(st.tuples(st.sampled_from(["get", "wait", "down", "up", "new key"]), st.floats(0, 200))))
async def test_a_caller_gets_a_key_of_its_own_that_is_never_older_than_an_hour(steps: list[tuple[str, float]]) -> None:
    host = Host(ann="key-0")
    valid_until: dict[str, float] = {}
    for number, (step, seconds) in enumerate(steps):
        if step == "wait":
            host.now += seconds
        elif step in {"down", "up"}:
            host.down = step == "down"
        elif step == "new key":
            valid_until[host.keys["ann"]] = host.now
            host.keys["ann"] = f"key-{number + 1}"
        else:
            try:
                key = await host.get()
            except KeyUnavailable:
                assert host.down
                continue
            assert host.now - valid_until.get(key, host.now) <= STALE + TTL


def test_the_key_is_in_no_repr() -> None:
    provider = Anthropic(api_key=lambda principal: Secret("sk-ant-canary"))
    assert "canary" not in repr(provider) + repr(provider.credential) + repr(vars(provider))


@pytest.mark.parametrize("api_key", [Principal, lambda: "key"])
def test_another_function_is_refused_at_construction(api_key: Any) -> None:
    with pytest.raises(OptionError, match=r"^api_key: expected a string, a Secret, or a function of the principal"):
        Anthropic(api_key=api_key)
    with pytest.raises(OptionError, match=r"^api_key: cannot be combined"):
        Anthropic(api_key=lambda principal: "key", auth="client")

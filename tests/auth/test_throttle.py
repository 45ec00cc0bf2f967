"""Guesses are slowed: per address, in bounded memory, before a store is asked; known credentials always pass."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.asgi import Behind, Sent, call, http_scope
from support.counts import examples
from support.virtual_time import SetClock

from auth.test_chain import Store
from bud_asgi.auth import ApiKeys, AuthMiddleware, FirstOf, Throttle, hash_api_key
from bud_asgi.auth.throttle import FailureCounts, caller_address
from bud_asgi.options import OptionError

KEY = "sk-bud-the-key"
KEYS = ApiKeys({"ci": hash_api_key(KEY)})


class Guarded:
    """An app behind keys in memory and a store, with a throttle of three failures in 30 seconds."""

    def __init__(self, **options: Any) -> None:
        self.clock, self.store = SetClock(), Store()
        throttle = Throttle(failures=3, window=30.0, clock=self.clock, **options)
        self._app = AuthMiddleware(Behind(), backend=FirstOf([KEYS, self.store], throttle=throttle))

    async def get(self, key: str | None, address: str | None = "203.0.113.1", forwarded: str | None = None) -> Sent:
        """Send a request from an address."""
        lines = [] if key is None else [(b"x-api-key", key.encode())]
        lines += [] if forwarded is None else [(b"x-forwarded-for", forwarded.encode())]
        return await call(self._app, http_scope(lines, client=address and (address, 1)))

    async def statuses(self, *keys: str | None, **more: Any) -> list[int]:
        """The statuses of requests with these keys, one after the other."""
        return [(await self.get(key, **more)).status for key in keys]


async def test_after_too_many_failures_the_answer_is_429() -> None:
    app = Guarded()
    assert await app.statuses("sk-bud-1", "sk-bud-2", "abc", "sk-bud-3", "abc") == [401, 401, 401, 429, 429]
    sent = await app.get("store-bad")
    assert (sent.status, sent.headers[b"retry-after"]) == (429, b"10")
    assert sent.error == {
        "type": "rate_limit_error",
        "message": "Too many failed authentication attempts. Please try again later.",
    }


async def test_the_store_is_not_asked_then() -> None:
    app = Guarded()
    assert await app.statuses("store-1", "store-2", "store-3") == [401, 401, 401]
    assert await app.statuses("store-4", "store-good") == [429, 429]
    assert app.store.asked == [b"store-1", b"store-2", b"store-3"]


async def test_a_credential_in_memory_always_passes() -> None:
    app = Guarded()
    await app.statuses(*["sk-bud-1"] * 5)
    assert await app.statuses(KEY, "memory-good", KEY) == [200, 200, 200]


async def test_a_valid_credential_of_the_store_does_not_count() -> None:
    app = Guarded()
    assert await app.statuses(*["store-good"] * 20) == [200] * 20
    assert await app.statuses("sk-bud-1", "sk-bud-2", "sk-bud-3", "sk-bud-4") == [401, 401, 401, 429]


async def test_a_request_without_a_credential_does_not_count() -> None:
    app = Guarded()
    assert await app.statuses(*[None] * 10, "sk-bud-1") == [401] * 11


async def test_two_wrong_credentials_count_once() -> None:
    app = Guarded()
    scope = http_scope([(b"x-api-key", b"store-1"), (b"authorization", b"Bearer store-2")])
    for status in (401, 401, 401, 429):
        assert (await call(app._app, {**scope, "bud_asgi.exchange": None})).status == status


async def test_failures_are_forgotten_with_time() -> None:
    app = Guarded()
    await app.statuses(*["sk-bud-1"] * 3)
    app.clock.now += 9.9
    assert await app.statuses("sk-bud-1") == [429]
    app.clock.now += 0.1
    assert await app.statuses("sk-bud-1", "sk-bud-1") == [401, 429]


async def test_each_address_has_its_own_count() -> None:
    app = Guarded()
    await app.statuses(*["sk-bud-1"] * 3)
    assert await app.statuses("sk-bud-1", address="203.0.113.2") == [401]
    assert await app.statuses("sk-bud-1") == [429]


async def test_without_an_address_nothing_is_counted() -> None:
    assert await Guarded().statuses(*["sk-bud-1"] * 10, address=None) == [401] * 10


async def test_one_network_of_ipv6_has_one_count() -> None:
    app = Guarded()
    for number in range(3):
        assert await app.statuses("sk-bud-1", address=f"2001:db8:1:2::{number}") == [401]
    assert await app.statuses("sk-bud-1", address="2001:db8:1:2:ffff::1") == [429]
    assert await app.statuses("sk-bud-1", address="2001:db8:1:3::1") == [401]


async def test_a_header_of_a_caller_s_own_does_not_change_its_address() -> None:
    app = Guarded()
    for number in range(3):
        await app.get("sk-bud-1", forwarded=f"192.0.2.{number}")
    assert (await app.get("sk-bud-1", forwarded="192.0.2.9")).status == 429


async def test_behind_a_trusted_proxy_each_caller_has_its_own_count() -> None:
    app = Guarded(trusted_proxies=["10.0.0.0/8"])
    for _ in range(3):
        await app.get("sk-bud-1", "10.0.0.1", forwarded="198.51.100.7, 192.0.2.1")
    assert (await app.get("sk-bud-1", "10.0.0.1", forwarded="1.1.1.1, 192.0.2.1")).status == 429
    assert (await app.get("sk-bud-1", "10.0.0.1", forwarded="198.51.100.7, 192.0.2.2")).status == 401


async def test_the_log_names_the_address_once_a_minute(caplog: pytest.LogCaptureFixture) -> None:
    app = Guarded()
    await app.statuses(*["sk-bud-1"] * 50)
    assert [record.getMessage() for record in caplog.records] == [
        "too many failed authentications from 203.0.113.1: its unknown credentials get a 429"
    ]


ADDRESSES: dict[str, tuple[str, str, str]] = {
    "a peer": ("203.0.113.1", "", "203.0.113.1"),
    "a peer that is not trusted": ("203.0.113.1", "192.0.2.1", "203.0.113.1"),
    "a proxy": ("10.0.0.1", "192.0.2.1", "192.0.2.1"),
    "two proxies": ("10.0.0.1", "192.0.2.1, 10.0.0.2", "192.0.2.1"),
    "a spoofed hop before": ("10.0.0.1", "1.2.3.4, 192.0.2.1", "192.0.2.1"),
    "proxies only": ("10.0.0.1", "10.0.0.3, 10.0.0.2", "10.0.0.3"),
    "no header": ("10.0.0.1", "", "10.0.0.1"),
    "a hop that is no address": ("10.0.0.1", "192.0.2.1, unknown", "10.0.0.1"),
    "an empty hop": ("10.0.0.1", "192.0.2.1,", "10.0.0.1"),
    "a port": ("10.0.0.1", "192.0.2.1:8080", "192.0.2.1"),
    "IPv6 with a port": ("10.0.0.1", "[2001:db8::5]:8080", "2001:db8::/64"),
    "IPv6": ("2001:db8:0:1::5", "", "2001:db8:0:1::/64"),
    "IPv6 with a zone": ("fe80::1%eth0", "", "fe80::/64"),
    "IPv4 in IPv6": ("::ffff:203.0.113.1", "", "203.0.113.1"),
    "a proxy as IPv4 in IPv6": ("::ffff:10.0.0.1", "192.0.2.1", "192.0.2.1"),
    "a proxy of IPv6": ("fd00::1", "192.0.2.1", "192.0.2.1"),
    "the name that a test client has": ("testclient", "192.0.2.1", "testclient"),
}


@pytest.mark.parametrize(("peer", "forwarded", "expected"), ADDRESSES.values(), ids=ADDRESSES.keys())
def test_the_address_that_counts(peer: str, forwarded: str, expected: str) -> None:
    trusted = Throttle(trusted_proxies=["10.0.0.0/8", "fd00::1"])._trusted
    assert caller_address(peer, forwarded.encode(), trusted) == expected


@examples(75, 5000)
@given(st.text(max_size=20), st.binary(max_size=40))
def test_whatever_the_addresses_are_it_raises_nothing(peer: str, forwarded: bytes) -> None:
    trusted = Throttle(trusted_proxies=["0.0.0.0/0", "::/0"])._trusted
    caller_address(peer, forwarded, trusted)
    caller_address("10.0.0.1", forwarded, trusted)


_steps = st.lists(st.tuples(st.sampled_from("abc"), st.floats(0, 20), st.booleans()), max_size=60)


@examples(50, 5000)
@given(steps=_steps, failures=st.integers(1, 5), window=st.floats(1, 60))
def test_in_no_stretch_of_time_are_there_more_failures_than_allowed(
    steps: list[tuple[str, float, bool]], failures: int, window: float
) -> None:
    counts, now = FailureCounts(failures, window), 0.0
    counted: dict[str, list[float]] = {}
    for address, pause, is_valid in steps:
        now += pause
        wait = counts.take(address, now)
        assert 0.0 <= wait <= window / failures + 1e-6
        if wait == 0.0 and is_valid:
            counts.give_back(address)
        elif wait == 0.0:
            counted.setdefault(address, []).append(now)
    for times in counted.values():
        for index, start in enumerate(times):
            for later, end in enumerate(times[index:], 1):
                assert later <= failures + (end - start) * failures / window + 1e-6


@pytest.mark.parametrize("given_back", [False, True])
def test_memory_is_bounded_however_many_addresses_there_are(given_back: bool) -> None:
    counts = FailureCounts(3, 30.0, max_addresses=100)
    for number in range(1000):
        counts.take(str(number), 0.0)
        if given_back:
            counts.give_back(str(number))
        assert len(counts) <= (0 if given_back else 100)
    assert given_back or counts.take("999", 0.0) == 0.0


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"failures": 0}, "^failures: expected"),
        ({"window": 0}, "^window: expected"),
        ({"trusted_proxies": "10.0.0.0/8"}, "^trusted_proxies: expected a list"),
        ({"trusted_proxies": ["proxy.example"]}, r"^trusted_proxies\[0\]: expected an address or a network"),
        ({"trusted_proxies": [10]}, r"^trusted_proxies\[0\]: expected"),
        ({"clock": 1}, "^clock: expected"),
    ],
)
def test_wrong_options_are_named(options: dict[str, Any], words: str) -> None:
    with pytest.raises(OptionError, match=words):
        Throttle(**options)

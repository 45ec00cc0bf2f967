"""Limits how often one address may fail to authenticate, so that credentials cannot be guessed quickly."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from math import ceil, inf

import msgspec
from starlette.types import Scope

from bud_asgi.options import check_clock, check_integer, check_items, check_seconds, mismatch
from bud_asgi.protocol.errors import GatewayError
from bud_asgi.protocol.headers import Headers

MAX_ADDRESSES = 10_000
"""Addresses that are remembered, about 2 MB of memory. Past that the oldest ones are forgotten."""

_WARN_EVERY = 60.0  # seconds between two log lines
_NETWORK_EXPECTED = 'a list of addresses or networks of proxies, such as ["10.0.0.0/8"]'

_log = logging.getLogger("bud_asgi")

Network = IPv4Network | IPv6Network


class TooManyFailures(GatewayError):
    """The address has sent too many credentials that are not valid."""

    status = 429
    type = "rate_limit_error"

    def __init__(self, wait: float) -> None:
        super().__init__(
            "Too many failed authentication attempts. Please try again later.",
            headers={"retry-after": str(max(1, ceil(wait)))},
        )


class _Failures(msgspec.Struct, gc=False):
    """The failures of one address, as of `updated_at`. They are forgotten evenly."""

    count: float
    updated_at: float


class FailureCounts:
    """Counts the failures of each address: at most `failures`, of which as many are forgotten in `window` seconds.

    Pure: the caller hands in `now`, in seconds. Memory is bounded by `max_addresses`.
    """

    def __init__(self, failures: int, window: float, max_addresses: int = MAX_ADDRESSES) -> None:
        self._failures = failures
        self._rate = failures / window
        self._max_addresses = max_addresses
        self._by_address: dict[str, _Failures] = {}

    def __len__(self) -> int:
        return len(self._by_address)

    def take(self, address: str, now: float) -> float:
        """Count one failure. Returns 0, or the seconds until there is room for one: then nothing is counted."""
        counted = self._by_address.pop(address, None)
        if counted is None:
            counted = _Failures(0.0, now)
            if len(self._by_address) >= self._max_addresses:
                del self._by_address[next(iter(self._by_address))]
        self._by_address[address] = counted  # the most recent ones are at the end
        counted.count = max(0.0, counted.count - (now - counted.updated_at) * self._rate)
        counted.updated_at = now
        excess = counted.count + 1.0 - self._failures
        if excess > 0.0:
            return excess / self._rate
        counted.count += 1.0
        return 0.0

    def give_back(self, address: str) -> None:
        """Take back a failure that turned out not to be one."""
        counted = self._by_address.get(address)
        if counted is not None:
            counted.count = max(0.0, counted.count - 1.0)
            if counted.count == 0.0:
                del self._by_address[address]


class Throttle:
    """Refuses with a 429 the unknown credentials of an address that has had too many failures.

    An address may fail `failures` times at once, and as often again in each `window` of seconds. Credentials that are
    valid and in memory always pass. Others count as a failure until the store, or the key set, has confirmed them. IPv6
    addresses count by their /64 network. The address is the one that the server reports. If that is one of
    `trusted_proxies`, addresses or networks, it is the last one in `x-forwarded-for` that is not. Behind a proxy that
    is not listed, and that the server does not know either, all callers share one count. A connection without an
    address, over a Unix socket, is not counted. State is per process. Raises `OptionError`.
    """

    def __init__(
        self,
        failures: int = 100,
        window: float = 60.0,
        trusted_proxies: Sequence[str] = (),
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        check_integer("failures", failures, "a number of failures, at least 1")
        check_seconds("window", window, maximum=1e6)
        check_items("trusted_proxies", trusted_proxies, _NETWORK_EXPECTED, _check_network)
        check_clock("clock", clock)
        self._trusted = tuple(ip_network(proxy, strict=False) for proxy in trusted_proxies)
        self._limit = failures, window
        self._counts = FailureCounts(failures, window)
        self._clock = clock
        self._warned_at = -inf

    def continue_from(self, former: Throttle) -> None:
        """Take over the failures that the previous throttle has counted, if it allows as many."""
        if former._limit == self._limit and former._clock is self._clock:
            self._counts = former._counts

    def address_of(self, scope: Scope, headers: Headers) -> str | None:
        """The address, or /64 network, that failures of a request count for; `None` if there is none."""
        client = scope.get("client")
        if not client:
            return None
        return caller_address(client[0], headers.get(b"x-forwarded-for", b""), self._trusted)

    def take(self, address: str) -> None:
        """Count a failure of an address. Raises `TooManyFailures`."""
        now = self._clock()
        wait = self._counts.take(address, now)
        if not wait:
            return
        if now - self._warned_at >= _WARN_EVERY:
            self._warned_at = now
            _log.warning("too many failed authentications from %s: its unknown credentials get a 429", address)
        raise TooManyFailures(wait)

    def give_back(self, address: str) -> None:
        """Take back a failure of an address that turned out not to be one."""
        self._counts.give_back(address)


def caller_address(peer: str, forwarded: bytes, trusted: Sequence[Network]) -> str:
    """The address, or /64 network, that counts for a `peer` with this `x-forwarded-for`.

    Hops are read from the right, for as long as the one before is a trusted proxy. One that is not an address ends it.
    """
    if not trusted and ":" not in peer:
        return peer
    address = _parse(peer)
    hops = forwarded.decode("latin-1").split(",") if forwarded else []
    while hops and address is not None and any(address in network for network in trusted):
        hop = _parse(_without_port(hops.pop().strip()))
        if hop is None:
            break
        address = hop
    if address is None:
        return peer
    return f"{IPv6Address(int(address) >> 64 << 64)}/64" if isinstance(address, IPv6Address) else str(address)


def _parse(text: str) -> IPv4Address | IPv6Address | None:
    """An address; the IPv4 address that an IPv6 one stands for (RFC 4291, 2.5.5.2)."""
    try:
        address = ip_address(text)
    except ValueError:
        return None
    return (address.ipv4_mapped or address) if isinstance(address, IPv6Address) else address


def _without_port(hop: str) -> str:
    """Remove the port that some proxies append: `192.0.2.1:8080`, `[2001:db8::1]:8080`."""
    if hop.startswith("["):
        return hop[1:].partition("]")[0]
    return hop.partition(":")[0] if hop.count(":") == 1 else hop


def _check_network(option: str, value: object) -> None:
    expected = 'an address or a network, such as "10.0.0.0/8"'
    if not isinstance(value, str):
        raise mismatch(option, expected, value)
    try:
        ip_network(value, strict=False)
    except ValueError:
        raise mismatch(option, expected, value) from None

"""A `LimitStore` in Redis or Valkey, shared by many processes and machines."""

from __future__ import annotations

import asyncio
import re
import secrets
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import count
from typing import TYPE_CHECKING, get_args

import msgspec

from bud_asgi.exchange import Reservation
from bud_asgi.extras import require
from bud_asgi.limits.answers import RateLimited
from bud_asgi.limits.redis.errors import CallFailed
from bud_asgi.limits.redis.fallback import Fallback, OnFailure
from bud_asgi.limits.redis.health import Health
from bud_asgi.limits.redis.scripts import RENEW, RESERVE, SETTLE, STATUSES, Arguments, arguments_of, keys_of, number
from bud_asgi.limits.redis.settlements import Lease, RedisReservation, Settlements
from bud_asgi.limits.redis.timing import DEFAULT_STORE_TIMING, StoreTiming
from bud_asgi.limits.store import Charge, Grant, LimitStatus, StoreUnavailable, waiting_time
from bud_asgi.options import (
    OptionError,
    check_choice,
    check_clock,
    check_integer,
    check_seconds,
    check_text,
    check_type,
)
from bud_asgi.protocol.errors import GatewayError
from bud_asgi.secret import AnySecret

if TYPE_CHECKING:
    from bud_asgi.limits.redis.link import Link

_PREFIX = re.compile(r"[A-Za-z0-9_.:/-]+")
_MAX_BUCKETS = 400  # in one call: a script blocks the server


class _Connection(msgspec.Struct, frozen=True, eq=False):
    """What belongs to one event loop: a link, its settlements, and the ids of its reservations."""

    link: Link
    settlements: Settlements
    ids: Iterator[str]


class RedisStore:
    """Counts in Redis (6.2 or later) or Valkey, for all processes that use the same `url` and `prefix`.

    `url` is `redis://`, `rediss://` (TLS), `unix://`, `redis+sentinel://host1:26379,host2:26379/service` or
    `redis+cluster://host1,host2`; `valkey://` means the same. TLS options, such as `ssl_ca_certs` with the path of a
    file, follow after a `?`. A `Secret` and pydantic's `SecretStr` are accepted.

    A call never takes longer than `timeout` seconds. If the store does not answer by then, `on_failure` decides:
    `open` admits the request without limits, `closed` refuses it with status 529, and `local` applies the limits in the
    memory of this process, divided by the number of `replicas`. It reconnects by itself.

    A reservation that is neither settled nor renewed for `lease` seconds is given back. `clock` returns seconds in
    place of the server's clock; it is meant for tests. Raises `OptionError`, and `MissingExtra` without the extra
    `redis`.
    """

    def __init__(
        self,
        url: AnySecret,
        *,
        timeout: float = 0.05,
        on_failure: OnFailure = "open",
        replicas: int = 1,
        prefix: str = "bud_asgi",
        lease: float = 60.0,
        timing: StoreTiming = DEFAULT_STORE_TIMING,
        clock: Callable[[], float] | None = None,
    ) -> None:
        _check_options(timeout, on_failure, replicas, prefix, lease, timing, clock)
        for module in ("redis", "hiredis"):
            require("RedisStore", module, "redis")
        from bud_asgi.limits.redis.link import Link  # noqa: PLC0415 - of an extra, and takes long to import
        from bud_asgi.limits.redis.nodes import connect  # noqa: PLC0415
        from bud_asgi.limits.redis.url import parse_url  # noqa: PLC0415

        target = parse_url(url)
        self.lease = float(lease)
        self._lease = number(lease)
        self._tag = f"{{{prefix}}}".encode()
        self._clock = clock
        self._timing = timing
        self._fallback = Fallback(on_failure, replicas)
        self._health = Health(target.shown, self._fallback.consequence, calm=timing.silence)
        open_channel = partial(connect, target, self._tag, timing)
        self._new_link = partial(Link, open_channel, timeout=float(timeout), timing=timing, health=self._health)
        self._by_loop: dict[asyncio.AbstractEventLoop, _Connection] = {}
        self._shown = target.shown

    def __repr__(self) -> str:
        return f"RedisStore({self._shown!r})"

    async def reserve(self, charges: Sequence[Charge]) -> Grant:
        """Take all charges, or none, in one call. Without an answer in time, `on_failure` decides.

        Raises `RateLimited`, and with `on_failure="closed"` `StoreUnavailable`. Cancelled, what may have been taken is
        given back in the background.
        """
        connection = self._connection()
        keys, amounts = keys_of(self._tag, charges), [charge.amount for charge in charges]
        lease = Lease(ends_at=time.monotonic() + self.lease)
        reservation = RedisReservation(next(connection.ids), tuple(charges), keys, lease)
        if not charges:
            lease.shared = False
            return Grant(reservation)
        args = self._arguments(charges, amounts, keys, hold=reservation.id)
        try:
            granted, now, *levels = await connection.link.call(RESERVE, args, 2 + 2 * len(charges))
        except CallFailed as error:
            return await self._reserve_elsewhere(connection, reservation, error)
        except asyncio.CancelledError:
            self._release(connection, reservation)
            raise
        statuses = _statuses(charges, levels)
        if not granted:
            raise _refusal(statuses)
        lease.expires_at = now + self.lease
        return Grant(reservation, statuses)

    async def settle(self, reservation: Reservation, amounts: Sequence[int]) -> None:
        """Book the actual amounts in one call. Settling twice changes nothing.

        If the store does not answer, it is tried again in the background while the lease lasts.
        """
        if not isinstance(reservation, RedisReservation) or reservation.lease.settled:
            return
        lease = reservation.lease
        lease.settled = True
        if lease.local is not None:
            await self._fallback.settle(lease.local, amounts)
        if lease.shared:
            now = time.monotonic()
            if now >= lease.ends_at:  # it has been given back: what was used is booked all the same
                lease.ends_at = now + self.lease
            await self._connection().settlements.settle(reservation, amounts)

    async def renew(self, reservations: Sequence[Reservation]) -> None:
        """Extend the leases of running requests, many in one call. One that had expired is reserved again.

        Raises `StoreUnavailable`.
        """
        link = self._connection().link
        for batch in _batches([one for one in reservations if isinstance(one, RedisReservation)]):
            await self._renew(link, [one for one in batch if one.lease.shared and not one.lease.settled])

    async def statuses(self, buckets: Sequence[Charge]) -> Sequence[LimitStatus]:
        """The status of each bucket, whichever process has used it. Raises `StoreUnavailable`."""
        link = self._connection().link
        found: list[LimitStatus] = []
        for first in range(0, len(buckets), _MAX_BUCKETS):
            some = buckets[first : first + _MAX_BUCKETS]
            args = self._arguments(some, [0] * len(some), keys_of(self._tag, some))
            try:
                levels = await link.call(STATUSES, args, 2 * len(some))
            except CallFailed as error:
                raise StoreUnavailable(error.reason) from None
            found += _statuses(some, levels)
        return found

    async def aclose(self) -> None:
        """Close the connection of the running event loop, after a last attempt to write settlements."""
        connection = self._by_loop.pop(asyncio.get_running_loop(), None)
        if connection is not None:
            await connection.settlements.aclose()
            await connection.link.aclose()

    def _connection(self) -> _Connection:
        loop = asyncio.get_running_loop()
        connection = self._by_loop.get(loop)
        if connection is None or connection.link.closed:
            for ended in [other for other in list(self._by_loop) if other.is_closed()]:
                self._by_loop.pop(ended, None)  # another thread may have done so
            link = self._new_link()
            settlements = Settlements(partial(self._write, link), timing=self._timing, health=self._health)
            ids = map(f"{secrets.token_hex(8)}-{{}}".format, count())  # of the loop's own: the process may be forked
            connection = self._by_loop[loop] = _Connection(link, settlements, ids)
        return connection

    def _arguments(
        self,
        charges: Sequence[Charge],
        amounts: Sequence[int],
        keys: Sequence[bytes],
        *,
        hold: str = "",
        expires_at: float = 0.0,
        ids: Sequence[bytes] = (),
    ) -> Arguments:
        now = b"" if self._clock is None else number(self._clock())
        head = (now, self._lease, hold.encode(), number(expires_at))
        return arguments_of(head, charges, amounts, keys, ids)

    async def _reserve_elsewhere(
        self, connection: _Connection, reservation: RedisReservation, failure: CallFailed
    ) -> Grant:
        lease = reservation.lease
        lease.shared = failure.sent
        try:
            granted = await self._fallback.reserve(reservation.charges, failure.reason)
        except GatewayError:
            if failure.sent:
                self._release(connection, reservation)
            raise
        lease.local = granted.reservation
        return Grant(reservation, granted.statuses)

    def _release(self, connection: _Connection, reservation: RedisReservation) -> None:
        """Give back what may have been reserved for a request that does not run."""
        reservation.lease.settled = True
        connection.settlements.settle_later(reservation, [0] * len(reservation.charges))

    async def _write(self, link: Link, reservation: RedisReservation, amounts: Sequence[int]) -> None:
        hold, expires_at = reservation.id, reservation.lease.expires_at
        args = self._arguments(reservation.charges, amounts, reservation.keys, hold=hold, expires_at=expires_at)
        await link.call(SETTLE, args, 1)

    async def _renew(self, link: Link, reservations: Sequence[RedisReservation]) -> None:
        if not reservations:
            return
        charges = [charge for one in reservations for charge in one.charges]
        keys = [key for one in reservations for key in one.keys]
        amounts = [charge.amount for charge in charges]
        ids = [one.id.encode() for one in reservations for _ in one.charges]
        args = self._arguments(charges, amounts, keys, ids=ids)
        ends_at = time.monotonic() + self.lease
        for one in reservations:
            one.lease.expires_at = 0.0  # not known until the reply is here
        try:
            (now,) = await link.call(RENEW, args, 1)
        except CallFailed as error:
            raise StoreUnavailable(error.reason) from None
        for one in reservations:
            one.lease.expires_at, one.lease.ends_at = now + self.lease, ends_at


def _check_options(
    timeout: float,
    on_failure: OnFailure,
    replicas: int,
    prefix: str,
    lease: float,
    timing: StoreTiming,
    clock: Callable[[], float] | None,
) -> None:
    check_seconds("timeout", timeout, maximum=60.0)
    check_choice("on_failure", on_failure, get_args(OnFailure))
    check_integer("replicas", replicas, "a whole number, at least 1")
    if replicas > 1 and on_failure != "local":
        raise OptionError("replicas", 'meaningless without on_failure = "local"', other="on_failure")
    check_text("prefix", prefix, "letters, digits, and any of _ . : / -", _PREFIX)
    check_seconds("lease", lease, maximum=1e9)
    check_type("timing", timing, StoreTiming, "a StoreTiming")
    if clock is not None:
        check_clock("clock", clock)


def _batches(reservations: Sequence[RedisReservation]) -> Iterator[Sequence[RedisReservation]]:
    """Batches of reservations that have no more than so many buckets together, but at least one reservation."""
    batch: list[RedisReservation] = []
    buckets = 0
    for one in reservations:
        if batch and buckets + len(one.charges) > _MAX_BUCKETS:
            yield batch
            batch, buckets = [], 0
        batch.append(one)
        buckets += len(one.charges)
    if batch:
        yield batch


def _statuses(charges: Sequence[Charge], levels: Sequence[float]) -> tuple[LimitStatus, ...]:
    return tuple(map(LimitStatus, charges, levels[::2], levels[1::2]))


def _refusal(statuses: Sequence[LimitStatus]) -> RateLimited:
    """The refusal by the limit with the longest wait."""
    waits = [
        0.0 if charge.limit.observed else waiting_time(charge.limit, one.used, charge.amount)
        for one in statuses
        for charge in (one.charge,)
    ]
    longest = max(waits)
    return RateLimited(statuses[waits.index(longest)], longest, statuses)

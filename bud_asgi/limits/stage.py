"""Admitting: reserve what a request will probably use, and settle it to what it has used, on every path out."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from functools import partial

import msgspec

from bud_asgi.exchange import Exchange, Principal, Reservation
from bud_asgi.limit import Kind, Limit, check_limits
from bud_asgi.limits.amounts import CostFunction, computed_use, cost_of, is_relayed, used_by, used_tokens, usual_amount
from bud_asgi.limits.answers import RateLimited, add_limit_headers, levels_of, misconfigured, remove_headers
from bud_asgi.limits.leases import Leases
from bud_asgi.limits.memory import MemoryStore
from bud_asgi.limits.plans import NO_LIMITS, Plan, Plans
from bud_asgi.limits.refusals import Refusals
from bud_asgi.limits.standing import Standing, limit_state, standing_of
from bud_asgi.limits.store import Charge, Grant, InspectableStore, LimitStatus, LimitStore, SharedStore, check_store
from bud_asgi.limits.waiting import WaitingRoom, behind
from bud_asgi.options import OptionError, check_function, mismatch
from bud_asgi.protocol.estimate import estimated_input
from bud_asgi.state import LimitState
from bud_asgi.tasks import BackgroundTasks


class Admission(msgspec.Struct, eq=False, gc=False):
    """A request that has been admitted: its charges, and the amounts used or reserved. Without limits there are none.

    `size` is the length in bytes of the body that tokens were estimated by; 0 if they were not. Amounts without a
    reservation were used at once, at `taken_at` in seconds on the store's clock.
    """

    plan: Plan
    amounts: Sequence[int]
    size: int = 0
    reservation: Reservation | None = None
    taken_at: float = 0.0


_UNLIMITED = Admission(NO_LIMITS, ())
"""The admission of every request to which no limit applies."""


class Limiter:
    """Admits requests by limits. Counts in this process's memory unless another `store` is given.

    `cost` computes what a request takes before it is answered, `used` what it has taken after that; by default they are
    estimated from the request, and read from the usage in the reply. Raises `OptionError`.
    """

    def __init__(
        self,
        limits: Sequence[Limit],
        store: LimitStore | None = None,
        *,
        cost: CostFunction | None = None,
        used: CostFunction | None = None,
    ) -> None:
        self.limits = check_limits(limits)
        if store is not None:
            check_store(store)
        for name, function in (("cost", cost), ("used", used)):
            if function is not None:
                check_function(name, function, "a function of the Exchange that returns amounts by kind", None)
        self.store: LimitStore = MemoryStore() if store is None else store
        # A subclass may have methods of its own.
        self._memory = self.store if isinstance(self.store, MemoryStore) and type(self.store) is MemoryStore else None
        self._shared = self.store if isinstance(self.store, SharedStore) else None
        if self._shared is not None:
            _check_names(self.limits)
        self.cost, self._used = cost, used
        self._has_functions = cost is not None or used is not None
        self._plans = Plans(self.limits, self._memory)
        self._refusals = Refusals()
        self._waiting = WaitingRoom(shared=self._memory is None)
        self._leases: dict[asyncio.AbstractEventLoop, Leases] = {}

    @property
    def closables(self) -> Sequence[SharedStore]:
        """The store, if it has connections."""
        return () if self._shared is None else (self._shared,)

    def continue_from(self, former: Limiter) -> None:
        """Take over what a former limiter has learned of requests, and if it has the same store, those that wait."""
        self._plans.estimates = former._plans.estimates
        if self.store is former.store:
            self._refusals, self._waiting, self._leases = former._refusals, former._waiting, former._leases

    def check(self, exchange: Exchange) -> Plan:
        """Refuse a request that is over a limit before its body is read. Reserves nothing. Raises `RateLimited`.

        A store in memory is read, unless the request is admitted next (`Plan.is_early`). For any other store, earlier
        refusals count. Returns the charges that are known so far.
        """
        plan = self._plans.early(exchange)
        if (plan.is_early and self._memory is not None) or self.cost is not None:  # a cost may be less than 1
            return plan
        try:
            if plan.account is not None and self._memory is not None:
                self._memory.check(plan.account, plan.ones)
            elif plan.charges:
                self._refusals.check(plan.charges)
        except RateLimited as error:
            if not error.limit_status.charge.limit.wait:
                raise self._refused(exchange, error) from None
        return plan

    def admit_now(self, exchange: Exchange, plan: Plan) -> Admission | None:
        """Do what `admit` does, without a coroutine; `None` if the store or the request may have to wait.

        `plan` is what `check` has returned.
        """
        if not plan.is_complete:
            plan = self._plans.full(exchange, plan)
        if not plan.charges:
            return _UNLIMITED
        if self._memory is None or self._waiting.queues:
            return None
        try:
            return self._take(self._memory, exchange, self._prepare(exchange, plan))
        except RateLimited as error:
            if error.limit_status.charge.limit.wait:
                return None
            raise self._refused(exchange, error) from None

    async def admit(self, exchange: Exchange) -> Admission:
        """Reserve from all limits. Raises `RateLimited` with the time of a retry. Cancelled, nothing stays reserved.

        Where the limit has a `wait`, it waits for room. Raises a `GatewayError` (500) if the store returns anything but
        a `Grant`. The store's own exceptions propagate.
        """
        plan = self._plans.full(exchange, self._plans.early(exchange))
        if not plan.charges:
            return _UNLIMITED
        admission = self._prepare(exchange, plan)
        try:
            if (queued := self._waiting.queued(plan.charges)) is not None:
                raise behind(_charges(admission)[plan.charges.index(queued)])
            return await self._reserve(exchange, admission)
        except RateLimited as error:
            if not error.limit_status.charge.limit.wait:
                raise self._refused(exchange, error) from None
            refusal = error
        return await self._wait(exchange, admission, refusal)

    def settle(self, admission: Admission, exchange: Exchange, tasks: BackgroundTasks) -> None:
        """Book what a request has used, at once or in the background: cancellation does not skip it."""
        plan, reservation = admission.plan, admission.reservation
        if reservation is None:
            if exchange.attempts or self._memory is None or plan.account is None or not is_relayed(exchange):
                return
            self._memory.give_back(plan.account, admission.amounts, admission.taken_at)
        elif self._memory is not None:
            self._memory.book(reservation, self._used_amounts(admission, exchange))
        else:
            for leases in tuple(self._leases.values()):  # threads may add others
                leases.discard(reservation)
            tasks.run_or_spawn(partial(self.store.settle, reservation, self._used_amounts(admission, exchange)))
        if self._waiting.queues:
            self._waiting.wake(plan.charges)

    async def standing(self, principal: Principal | str, *, model: str | None = None) -> Sequence[Standing]:
        """What a caller has used of its limits, and what is left; with a `model` also of those that depend on it.

        A name alone stands for a principal without team and limits of its own. Reports use by all processes, if they
        share the store. Raises `StoreUnavailable`, and `TypeError` for a store that cannot report it.
        """
        if not isinstance(self.store, InspectableStore):
            raise TypeError(f"the store {type(self.store).__name__} has no method `statuses`")
        caller = Principal(id=principal) if isinstance(principal, str) else principal
        return await standing_of(self.limits, self.store, caller, model)

    def state(self) -> Sequence[LimitState]:
        """The general limits, and what is used of those per `all`, if this process counts them in memory."""
        return [limit_state(limit, self._memory) for limit in self.limits]

    @property
    def waiting(self) -> int:
        """The number of requests that wait for room."""
        return len(self._waiting)

    async def aclose(self) -> None:
        """Close the store's connections of the running event loop."""
        self._leases.pop(asyncio.get_running_loop(), None)
        if self._shared is not None:
            await self._shared.aclose()

    def _prepare(self, exchange: Exchange, plan: Plan) -> Admission:
        """Estimate what a request will use."""
        if self.cost is not None:
            return Admission(plan, cost_of(self.cost, exchange, plan.charges))
        if plan.history is None:
            return Admission(plan, plan.ones)
        request = exchange.read_request
        if request is None:
            return Admission(plan, [usual_amount(charge.limit) for charge in plan.charges])
        body = request.body
        taken, given = plan.history.expect(body, request.max_tokens)
        expected: dict[Kind, int] = {"input_tokens": taken, "output_tokens": given, "tokens": taken + given}
        amounts = [expected.get(kind, 1) for kind in plan.kinds]
        if plan.has_cache_reads:  # the ratio is learned without them
            whole = max(taken, estimated_input(body).input_tokens or 0)
            for index, charge in enumerate(plan.charges):
                amounts[index] += whole - taken if charge.limit.cache_reads else 0
        return Admission(plan, amounts, len(body))

    def _take(self, memory: MemoryStore, exchange: Exchange, admission: Admission) -> Admission:
        plan = admission.plan
        account = plan.account
        assert account is not None  # noqa: S101 - made with the plan of a store in memory
        if plan.only_requests and not self._has_functions:  # nothing has to be settled once an upstream was tried
            admission.taken_at = memory.take(account, admission.amounts)
        else:
            exchange.reservation = admission.reservation = memory.hold(account, admission.amounts)
        buckets, lines, now = account.buckets, exchange.reply_headers, time.time()
        if plan.distinct and not lines:
            for index, headers in plan.reported:
                lines += headers.lines(buckets[index].used, now)
        else:
            add_limit_headers(lines, [(headers, buckets[index].used) for index, headers in plan.reported], now)
        if plan.has_observed:
            _note_observed(exchange, [(bucket.limit, bucket.used) for bucket in buckets])
        return admission

    async def _reserve(self, exchange: Exchange, admission: Admission) -> Admission:
        if self._memory is not None:
            return self._take(self._memory, exchange, admission)
        plan = admission.plan
        try:
            granted = _checked(await self.store.reserve(_charges(admission)))
        except OptionError as error:
            fault = f"the limit store {type(self.store).__name__} returned a wrong result: {error}"
            raise misconfigured(exchange.request_id, fault) from error
        exchange.reservation = admission.reservation = granted.reservation
        self._lease(granted.reservation, exchange.tasks)
        add_limit_headers(exchange.reply_headers, levels_of(granted.statuses), time.time())
        if plan.has_observed:
            _note_observed(exchange, [(status.charge.limit, status.used) for status in granted.statuses])
        return admission

    async def _wait(self, exchange: Exchange, admission: Admission, refusal: RateLimited) -> Admission:
        who = exchange.principal.id if exchange.principal else ""
        charges = _charges(admission)
        try:
            return await self._waiting.admit(refusal, who, charges, lambda: self._reserve(exchange, admission))
        except RateLimited as error:
            raise self._refused(exchange, error) from None

    def _lease(self, reservation: Reservation, tasks: BackgroundTasks | None) -> None:
        if self._shared is None or tasks is None:
            return
        loop = asyncio.get_running_loop()
        leases = self._leases.get(loop)
        if leases is None:
            for ended in [other for other in list(self._leases) if other.is_closed()]:
                self._leases.pop(ended, None)  # another thread may have done so
            leases = self._leases[loop] = Leases(self._shared, tasks, loop)
        leases.add(reservation)

    def _refused(self, exchange: Exchange, error: RateLimited) -> RateLimited:
        exchange.refused_by = error.limit_status.charge.limit
        if exchange.reply_headers:  # of another limiter
            remove_headers(exchange.reply_headers, [name.encode() for name in error.headers])
        return self._refusals.note(error)

    def _used_amounts(self, admission: Admission, exchange: Exchange) -> Sequence[int]:
        plan, reserved = admission.plan, admission.amounts
        if self._used is not None:
            return computed_use(self._used, exchange, plan.charges, reserved)
        if plan.only_requests and exchange.attempts:
            return reserved
        usage = exchange.usage
        tokens = None if usage is None else used_tokens(usage)
        if plan.history is not None and usage is not None and tokens is not None and not usage.estimated:
            plan.history.learn(admission.size, *tokens)
        return used_by(exchange, plan.charges, reserved, tokens)


def _check_names(limits: Sequence[Limit]) -> None:
    """Check that functions have names: processes that share a store find the same buckets by them."""
    for index, limit in enumerate(limits):
        if "<lambda>" in limit.dimension or limit.dimension == "functools.partial":
            problem = "a shared store names its buckets after the function; expected one that was made with def"
            raise OptionError(f"limits[{index}].per", problem)


def _note_observed(exchange: Exchange, levels: Sequence[tuple[Limit, float]]) -> None:
    """Note the observed limits that the request is over."""
    for limit, used in levels:
        if limit.observed and used > limit.amount:
            exchange.over_limits = (*exchange.over_limits, limit)


def _charges(admission: Admission) -> list[Charge]:
    """The charges of a request with its amounts."""
    pairs = zip(admission.plan.charges, admission.amounts, strict=True)
    return [Charge(charge.limit, charge.key, amount) for charge, amount in pairs]


def _checked(granted: object) -> Grant:
    """What a store returned. Raises `OptionError`."""
    if not isinstance(granted, Grant):
        raise mismatch("the result of reserve()", "a Grant", granted)
    for status in granted.statuses:
        if not isinstance(status, LimitStatus):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise mismatch("the statuses of the Grant", "a LimitStatus for each limit", status)
    return granted

"""Plans: the charges of a caller's requests, found once and used again."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import msgspec

from bud_asgi.exchange import Exchange
from bud_asgi.limit import Kind, Limit
from bud_asgi.limits.answers import LimitHeaders, headers_of
from bud_asgi.limits.charges import charges_of, family_of, limits_of, model_of, needs_body
from bud_asgi.limits.estimates import Estimates, History
from bud_asgi.limits.memory import Account, MemoryStore
from bud_asgi.limits.store import Charge

_MAX_PLANS = 4096
_LONGEST_NAME = 256  # characters: callers choose the names of models, and may choose their own

_Key = TypeVar("_Key")
Caller = tuple[str, str, str | None, tuple[Limit, ...]]
"""The operation, or else its kind, and of the principal the id, the team, and the limits of its own."""


class Plan(msgspec.Struct, eq=False):
    """The charges of a request, and their buckets in memory. `is_complete`: no further ones depend on the body.

    `kinds` and `ones` are the kind of each charge, and an amount of 1. `history` is what tokens are estimated by, if
    any are limited. `reported` are the indexes of those charges that are reported to the caller, with their headers;
    `distinct`: no two are of the same kind. `only_requests`: all limits count requests. `is_early`: the request is
    admitted before its body is read. Then no limit depends on the body or may wait (until the body has been read, the
    client cannot be watched for a disconnect), and all limits count requests, unless the store is not in memory.
    """

    charges: tuple[Charge, ...]
    account: Account | None = None
    caller: Caller = ("", "", None, ())
    is_complete: bool = True
    history: History | None = None
    kinds: tuple[Kind, ...] = ()
    ones: tuple[int, ...] = ()
    reported: tuple[tuple[int, LimitHeaders], ...] = ()
    distinct: bool = True
    only_requests: bool = False
    has_observed: bool = False
    has_cache_reads: bool = False
    is_early: bool = False

    @classmethod
    def of(
        cls,
        charges: tuple[Charge, ...],
        account: Account | None,
        caller: Caller,
        history: History | None,
        *,
        is_complete: bool,
    ) -> Plan:
        """The plan for these charges."""
        limits = [charge.limit for charge in charges]
        reported = [(index, headers) for index, limit in enumerate(limits) if (headers := headers_of(limit))]
        only_requests = all(limit.kind == "requests" for limit in limits)
        is_early = is_complete and bool(charges) and not any(limit.wait for limit in limits)
        return cls(
            charges,
            account,
            caller,
            is_complete,
            history,
            kinds=tuple([limit.kind for limit in limits]),
            ones=(1,) * len(charges),
            reported=tuple(reported),
            distinct=len({headers.kind for _, headers in reported}) == len(reported),
            only_requests=only_requests,
            has_observed=any(limit.observed for limit in limits),
            has_cache_reads=any(limit.cache_reads for limit in limits),
            is_early=is_early and (account is None or only_requests),
        )


NO_LIMITS = Plan(())
"""The plan of a request that no limit applies to."""


class Plans:
    """Finds the plan of a request: without the charges that depend on the body, or with all. Remembers recent ones.

    `estimates` are what tokens are estimated by.
    """

    def __init__(self, limits: Sequence[Limit], memory: MemoryStore | None) -> None:
        self._limits = limits
        self._memory = memory
        self.estimates = Estimates()
        self._early: dict[Caller, Plan] = {}
        self._full: dict[tuple[Caller, str | None], Plan] = {}
        self._by_function = any(callable(limit.per) for limit in limits)

    def early(self, exchange: Exchange) -> Plan:
        """The charges that do not depend on the body."""
        principal = exchange.principal
        if not self._limits and (principal is None or not principal.limits):
            return NO_LIMITS
        operation = exchange.operation or family_of(exchange)
        if principal is None:
            caller = (operation, "", None, ())
        else:
            caller = (operation, principal.id, principal.team, principal.limits)
        plan = self._early.get(caller)
        if plan is None:
            plan = self._make(exchange, caller, None, early=True)
            _remember(self._early, caller, plan, caller[1])
        return plan

    def full(self, exchange: Exchange, early: Plan) -> Plan:
        """All charges, given those that do not depend on the body. If there are others, it must have been read."""
        if early.is_complete:
            return early
        model = model_of(exchange)
        key = (early.caller, model)
        plan = None if self._by_function else self._full.get(key)
        if plan is None:
            plan = self._make(exchange, early.caller, model, early=False)
            _remember(self._full, key, plan, early.caller[1] + (model or ""))
        return plan

    def _make(self, exchange: Exchange, caller: Caller, model: str | None, *, early: bool) -> Plan:
        family = family_of(exchange)
        limits = limits_of(self._limits, exchange.principal, family)
        later = [limit for limit in limits if needs_body(limit)]
        if early:
            limits = [limit for limit in limits if limit not in later]
        charges = charges_of(limits, exchange, family, model)
        account = self._memory.account(charges) if self._memory is not None and charges else None
        has_tokens = any(charge.limit.is_tokens for charge in charges)
        history = self.estimates.of(model or "", caller[1]) if has_tokens else None
        return Plan.of(charges, account, caller, history, is_complete=not (early and later))


def _remember(plans: dict[_Key, Plan], key: _Key, plan: Plan, names: str) -> None:
    if len(plans) >= _MAX_PLANS:
        plans.clear()
    if len(names) <= _LONGEST_NAME:
        plans[key] = plan

"""Plans: the charges of a caller's requests, found once and used again."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import msgspec

from bud_asgi.exchange import Exchange
from bud_asgi.limit import Limit
from bud_asgi.limits.charges import charges_of, family_of, limits_of, model_of, needs_body
from bud_asgi.limits.memory import Account, MemoryStore
from bud_asgi.limits.store import Charge

_MAX_PLANS = 4096
_LONGEST_NAME = 256  # characters: callers can choose names, and those of models

_Key = TypeVar("_Key")
_Caller = tuple[str, str, str | None, tuple[Limit, ...]]


class Plan(msgspec.Struct, eq=False):
    """The charges of a request, and their buckets in memory. `is_complete`: none is missing for want of the body."""

    charges: tuple[Charge, ...]
    account: Account | None = None
    is_complete: bool = True
    has_tokens: bool = False

    @property
    def ones(self) -> tuple[int, ...]:
        """An amount of 1 for each charge."""
        return tuple([charge.amount for charge in self.charges])


class Plans:
    """Finds the plan of a request: of what does not depend on its body, and of the whole. Remembers the latest."""

    def __init__(self, limits: Sequence[Limit], memory: MemoryStore | None) -> None:
        self._limits = limits
        self._memory = memory
        self._early: dict[_Caller, Plan] = {}
        self._full: dict[tuple[_Caller, str | None], Plan] = {}
        self._by_function = any(callable(limit.per) for limit in limits)

    def early(self, exchange: Exchange) -> Plan:
        """The charges that do not depend on the body."""
        caller = _caller(exchange)
        plan = self._early.get(caller)
        if plan is None:
            plan = self._make(exchange, caller, None, early=True)
            _remember(self._early, caller, plan, caller[1])
        return plan

    def full(self, exchange: Exchange) -> Plan:
        """All charges. The body must have been read, if they depend on it."""
        caller = _caller(exchange)
        early = self._early.get(caller)
        if early is not None and early.is_complete:
            return early
        model = model_of(exchange)
        key = (caller, model)
        plan = None if self._by_function else self._full.get(key)
        if plan is None:
            plan = self._make(exchange, caller, model, early=False)
            _remember(self._full, key, plan, caller[1] + (model or ""))
        return plan

    def _make(self, exchange: Exchange, caller: _Caller, model: str | None, *, early: bool) -> Plan:
        family = caller[0]
        limits = limits_of(self._limits, exchange.principal, family)
        later = [limit for limit in limits if needs_body(limit)]
        if early:
            limits = [limit for limit in limits if limit not in later]
        charges = charges_of(limits, exchange, family, model)
        account = self._memory.account(charges) if self._memory is not None and charges else None
        has_tokens = any(charge.limit.is_tokens for charge in charges)
        return Plan(charges, account, not (early and later), has_tokens)


def _caller(exchange: Exchange) -> _Caller:
    principal = exchange.principal
    if principal is None:
        return family_of(exchange), "", None, ()
    return family_of(exchange), principal.id, principal.team, principal.limits


def _remember(plans: dict[_Key, Plan], key: _Key, plan: Plan, names: str) -> None:
    if len(plans) >= _MAX_PLANS:
        plans.clear()
    if len(names) <= _LONGEST_NAME:
        plans[key] = plan

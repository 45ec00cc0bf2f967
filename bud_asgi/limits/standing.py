"""Inspection: what a caller has used of its limits, and what is left."""

from __future__ import annotations

import time
from collections.abc import Sequence
from math import ceil

import msgspec

from bud_asgi.exchange import Principal
from bud_asgi.limit import Limit, limit_id, limit_words
from bud_asgi.limits.charges import bucket_name, limits_of
from bud_asgi.limits.memory import MemoryStore
from bud_asgi.limits.store import Charge, InspectableStore, LimitStatus
from bud_asgi.state import LimitState

_FAMILY = "messages"


class Standing(msgspec.Struct, frozen=True):
    """How much of a limit is used, reserved by running requests, and left, in whole units.

    The three add up to the limit's amount, unless it is in debt: then `used` is more. `full_at` is the Unix time when
    all of it is available again; `None` if it is now, and for `concurrent`, which depends on the running requests.
    """

    limit: Limit
    used: int
    reserved: int
    remaining: int
    full_at: float | None = None


def limit_state(limit: Limit, memory: MemoryStore | None) -> LimitState:
    """A general limit, and what is used of it by messages, if it has one bucket for all that is in memory."""
    used = None
    if memory is not None and limit.per == "all":
        used = memory.status(Charge(limit, f"{_FAMILY}:", 0)).used
    return LimitState(limit_words(limit), limit_id(limit), limit.dimension, limit.amount, used)


async def standing_of(
    limits: Sequence[Limit], store: InspectableStore, principal: Principal, model: str | None
) -> Sequence[Standing]:
    """The standing of a caller with the limits on messages that apply to it."""
    charges: list[Charge] = []
    for limit in limits_of(limits, principal, _FAMILY):
        depends_on_model = limit.per == "model" or limit.models != ("*",)
        if callable(limit.per) or (depends_on_model and (model is None or not limit.applies_to_model(model))):
            continue
        name = bucket_name(limit, principal, model)
        if name is not None:
            charges.append(Charge(limit, f"{_FAMILY}:{name}", 0))
    return [_standing(status) for status in await store.statuses(charges)] if charges else []


def _standing(status: LimitStatus) -> Standing:
    used, full_in = ceil(status.used - 1e-6), status.full_in
    reserved = min(used, ceil(status.reserved - 1e-6))
    full_at = time.time() + full_in if full_in > 0.0 else None
    return Standing(status.charge.limit, used - reserved, reserved, max(0, status.charge.limit.amount - used), full_at)

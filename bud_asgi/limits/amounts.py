"""How much a request takes from each limit: what its reply reports, or what a host computes."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import cast

from bud_asgi.exchange import Exchange
from bud_asgi.limit import KINDS, Kind, Limit
from bud_asgi.limits.answers import misconfigured
from bud_asgi.limits.store import Charge
from bud_asgi.options import OptionError, check_choice, check_integer, mismatch
from bud_asgi.protocol.operations import Operation
from bud_asgi.protocol.usage import Iteration, Usage

Amounts = Mapping[Kind, int]
"""Whole units by kind. A missing kind has its usual amount."""

CostFunction = Callable[[Exchange], Amounts]
"""What a request takes, as a host computes it."""

_RELAYED: frozenset[Operation | None] = frozenset(("messages.create", "messages.count_tokens"))
"""The operations that are answered by attempts at upstreams."""

_log = logging.getLogger("bud_asgi")


def usual_amount(limit: Limit) -> int:
    """What a request takes of which nothing else is known: 1, and no tokens."""
    return 0 if limit.is_tokens else 1


def cost_of(cost: CostFunction, exchange: Exchange, charges: Iterable[Charge]) -> list[int]:
    """What to reserve, as a host's function computes it. Raises a `GatewayError` (500) for a wrong result."""
    result = cost(exchange)
    try:
        amounts = _checked(result)
    except OptionError as error:
        fault = f"the function `cost` of the rate limits returned a wrong result: {error}"
        raise misconfigured(exchange.request_id, fault) from error
    return [amounts.get(charge.limit.kind, usual_amount(charge.limit)) for charge in charges]


def computed_use(
    used: CostFunction, exchange: Exchange, charges: Sequence[Charge], reserved: Sequence[int]
) -> list[int]:
    """What a request has used, as a host's function computes it. If it fails, the reserved amounts stand."""
    amounts: Amounts = {}
    try:
        amounts = _checked(used(exchange))
    except Exception:  # noqa: BLE001 - the host's code, after the response: its failure changes nothing for the client
        _log.exception("%s: `used` of the rate limits failed; what was reserved stays booked", exchange.request_id)
    return [
        0 if charge.limit.kind == "concurrent" else amounts.get(charge.limit.kind, amount)
        for charge, amount in zip(charges, reserved, strict=True)
    ]


def _checked(result: object) -> Amounts:
    """What a `CostFunction` has returned. Raises `OptionError` for anything but amounts by kind."""
    if not isinstance(result, Mapping):
        raise mismatch("its result", 'a mapping of kinds to whole numbers, such as {"tokens": 500}', result)
    amounts = cast("Mapping[Kind, int]", result)
    for kind, amount in amounts.items():
        check_choice("its result", kind, KINDS)
        check_integer(f"its result, {kind}", amount, "a whole number, at least 0", minimum=0)
    return amounts


def is_relayed(exchange: Exchange) -> bool:
    """Whether upstreams answer the request: before the first attempt, it has used nothing."""
    return exchange.operation in _RELAYED


def used_by(
    exchange: Exchange, charges: Sequence[Charge], reserved: Sequence[int], tokens: tuple[int | None, int | None] | None
) -> list[int]:
    """What a finished request has used of each limit. `0` is a count; without one, the reserved amount stands.

    The caller pays for one attempt, whose usage is `exchange.usage`, and `tokens` its `used_tokens`. Without one, no
    tokens were used, unless an upstream has replied without reporting them, or another app has answered.
    """
    relayed, usage = is_relayed(exchange), exchange.usage
    begun = bool(exchange.attempts) or not relayed
    taken = given = 0 if relayed and not (begun and exchange.attempts[-1].end == "answered") else None
    if tokens is not None:
        taken, given = tokens
    used = used_with_reads = _by_kind(None if begun else 0, taken, given)
    if usage is not None and (usage.cache_read_input_tokens or usage.iterations):
        used_with_reads = _by_kind(used["requests"], *used_tokens(usage, cache_reads=True))
    amounts: list[int] = []
    for charge, amount in zip(charges, reserved, strict=True):
        limit = charge.limit
        count = (used_with_reads if limit.cache_reads else used)[limit.kind]
        amounts.append(amount if count is None else count)
    return amounts


def _by_kind(requests: int | None, taken: int | None, given: int | None) -> Mapping[Kind, int | None]:
    tokens = None if taken is None or given is None else taken + given
    return {"requests": requests, "input_tokens": taken, "output_tokens": given, "tokens": tokens, "concurrent": 0}


def used_tokens(usage: Usage, *, cache_reads: bool = False) -> tuple[int | None, int | None]:
    """The input and output tokens that count against limits, of all iterations; `None` where they are not known.

    Input counts as at the service: what was written to the cache counts, what was read from it only with `cache_reads`
    (vendor page "Rate limits").
    """
    taken, given = _input(usage, cache_reads=cache_reads), usage.output_tokens
    if usage.iterations:
        taken = _most(taken, [_input(one, cache_reads=cache_reads) for one in usage.iterations])
        given = _most(given, [one.output_tokens for one in usage.iterations])
    return taken, given


def _most(count: int | None, parts: Iterable[int | None]) -> int | None:
    """A message's count, or the sum of its iterations if that is more."""
    known = [part for part in parts if part is not None]
    return max(count or 0, sum(known)) if known else count


def _input(usage: Usage | Iteration, *, cache_reads: bool) -> int | None:
    taken, written = usage.input_tokens, usage.cache_creation_input_tokens
    total = taken if written is None else written + (taken or 0)
    if cache_reads and usage.cache_read_input_tokens is not None:
        total = (total or 0) + usage.cache_read_input_tokens
    return total

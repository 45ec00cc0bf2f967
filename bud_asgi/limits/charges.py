"""Which limits apply to a request, and what it takes from each: reserved before the call, and booked after it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

from bud_asgi.exchange import Exchange, Principal
from bud_asgi.limit import Kind, Limit
from bud_asgi.limits.store import Charge
from bud_asgi.options import mismatch
from bud_asgi.protocol.operations import MODELS_API, Operation
from bud_asgi.protocol.usage import Iteration, Usage

Amounts = Mapping[Kind, int]
"""Whole units by kind. A kind that is missing takes what it usually does."""

CostFunction = Callable[[Exchange], Amounts]
"""What a request takes, as a host computes it."""

_FAMILIES: dict[Operation | None, str] = {
    "messages.create": "messages",
    "messages.count_tokens": "count_tokens",
    "models.list": "models",
    "models.retrieve": "models",
}


_OWN: frozenset[Operation | None] = frozenset(("messages.create", "messages.count_tokens"))
"""The operations that are answered by attempts at upstreams."""


def family_of(exchange: Exchange) -> str:
    """The kind of operation. Each has buckets of its own: counting tokens, as at the service, and the Models API.

    (Vendor page "Token counting".)
    """
    return _FAMILIES.get(exchange.operation) or ("count_tokens" if exchange.counting else "messages")


def limits_of(limits: Sequence[Limit], principal: Principal | None, family: str) -> list[Limit]:
    """The limits that apply to a caller, whatever the model.

    Those that the principal carries replace the general ones per principal of the same kind and window. Token limits do
    not apply to counting tokens and to the Models API, which use none.
    """
    own: tuple[Limit, ...] = principal.limits if principal else ()
    if own:
        replaced = {(limit.kind, limit.window) for limit in own}
        general = [one for one in limits if one.per != "principal" or (one.kind, one.window) not in replaced]
        limits = [*own, *general]
    name, team = (principal.id, principal.team) if principal else ("", None)
    return [
        limit
        for limit in limits
        if (family == "messages" or not limit.is_tokens) and limit.applies_to(principal=name, team=team)
    ]


def needs_body(limit: Limit) -> bool:
    """Whether it can only be checked once the body has been read."""
    return limit.is_tokens or limit.per == "model" or callable(limit.per) or limit.models != ("*",)


def model_of(exchange: Exchange) -> str | None:
    """The name of the model that limits use: what it resolves to, or else the client's; `None` for no model."""
    if exchange.route is not None:
        return exchange.route.model
    if exchange.operation in MODELS_API or not exchange.has_request:
        return None
    return exchange.decoded_request.model


def charges_of(limits: Iterable[Limit], exchange: Exchange, family: str, model: str | None) -> tuple[Charge, ...]:
    """A charge of 1 for each limit that applies. Requests without a principal share one bucket."""
    charges: list[Charge] = []
    keys: dict[str, str] = {}  # one string for all buckets of a caller: there may be many callers
    for limit in limits:
        if limit.models != ("*",) and (model is None or not limit.applies_to_model(model)):
            continue
        per = limit.per
        name = _checked(limit, per(exchange)) if callable(per) else bucket_name(limit, exchange.principal, model)
        if name is not None:
            charges.append(Charge(limit, keys.setdefault(name, f"{family}:{name}"), 1))
    return tuple(charges)


def bucket_name(limit: Limit, principal: Principal | None, model: str | None) -> str | None:
    """The name of the bucket that a limit has for a caller or a model; `None` if it does not apply."""
    if limit.per == "principal":
        return principal.id if principal else ""
    if limit.per == "team":
        return principal.team if principal else None
    return model if limit.per == "model" else ""


def _checked(limit: Limit, name: object) -> str | None:
    if name is not None and not isinstance(name, str):
        raise mismatch(f"the result of {limit.dimension}()", "a string or None", name)
    return name


def used_by(exchange: Exchange, charges: Sequence[Charge], reserved: Sequence[int]) -> list[int]:
    """What a request that is over has used of each limit. `0` is a count; one that is not known is what was reserved.

    The caller pays for one attempt: for the usage in `exchange.usage`. Without any, an upstream has replied without it,
    or it is not known what another app has used; else nothing was.
    """
    own, usage = exchange.operation in _OWN, exchange.usage
    begun = bool(exchange.attempts) or not own
    taken = given = 0 if own and not (begun and exchange.attempts[-1].end == "answered") else None
    if usage is not None:
        taken, given = used_tokens(usage)
    used: dict[Kind, int | None] = {
        "requests": None if begun else 0,
        "input_tokens": taken,
        "output_tokens": given,
        "tokens": None if taken is None or given is None else taken + given,
        "concurrent": 0,
    }
    counts = [used[charge.limit.kind] for charge in charges]
    amounts = [amount if count is None else count for count, amount in zip(counts, reserved, strict=True)]
    if usage is not None and usage.cache_read_input_tokens:
        for index, charge in enumerate(charges):
            if charge.limit.cache_reads:
                amounts[index] += (used_tokens(usage, cache_reads=True)[0] or 0) - (taken or 0)
    return amounts


def used_tokens(usage: Usage, *, cache_reads: bool = False) -> tuple[int | None, int | None]:
    """The input and output tokens that count against limits, of all iterations; `None` where they are not known.

    Input counts as at the service: what was written to the cache counts, what was read from it only with `cache_reads`
    (vendor page "Rate limits").
    """
    taken, given = _input(usage, cache_reads=cache_reads), usage.output_tokens
    if usage.iterations:
        inputs = [_input(one, cache_reads=cache_reads) or 0 for one in usage.iterations]
        taken, given = (
            max(taken or 0, sum(inputs)),
            max(given or 0, sum(one.output_tokens or 0 for one in usage.iterations)),
        )
    return taken, given


def _input(usage: Usage | Iteration, *, cache_reads: bool) -> int | None:
    taken, written = usage.input_tokens, usage.cache_creation_input_tokens
    total = taken if written is None else written + (taken or 0)
    if cache_reads and usage.cache_read_input_tokens is not None:
        total = (total or 0) + usage.cache_read_input_tokens
    return total

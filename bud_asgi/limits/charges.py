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
    for limit in limits:
        if limit.models != ("*",) and (model is None or not limit.applies_to_model(model)):
            continue
        per = limit.per
        name = _checked(limit, per(exchange)) if callable(per) else bucket_name(limit, exchange.principal, model)
        if name is not None:
            charges.append(Charge(limit, f"{family}:{name}", 1))
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


def used_by(exchange: Exchange, charge: Charge, reserved: int) -> int:
    """What a request that is over has used of a limit. `0` is a count; where none is known, it is what was reserved."""
    kind = charge.limit.kind
    if kind == "concurrent":
        return 0
    own_endpoint = exchange.operation in _FAMILIES and exchange.operation not in MODELS_API
    if kind == "requests":
        return reserved if exchange.attempts or not own_endpoint else 0
    usage = exchange.usage
    if usage is None:  # an upstream that replied without it, another app; else nothing was used
        answered = bool(exchange.attempts) and exchange.attempts[-1].end == "answered"
        return reserved if answered or not own_endpoint else 0
    tokens = used_tokens(kind, usage, cache_reads=charge.limit.cache_reads)
    return reserved if tokens is None else tokens


def used_tokens(kind: Kind, usage: Usage, *, cache_reads: bool) -> int | None:
    """The tokens of a usage that count against limits of a kind; `None` if they are not known."""
    output = _total([usage.output_tokens], [one.output_tokens for one in usage.iterations or ()])
    if kind == "output_tokens":
        return output
    taken = _total([_input(usage, cache_reads)], [_input(one, cache_reads) for one in usage.iterations or ()])
    if kind == "input_tokens":
        return taken
    return None if taken is None and output is None else (taken or 0) + (output or 0)


def _input(usage: Usage | Iteration, cache_reads: bool) -> int | None:
    """Input tokens as the service limits them: those written to the cache count, those read from it do not."""
    parts = [usage.input_tokens, usage.cache_creation_input_tokens]
    if cache_reads:
        parts.append(usage.cache_read_input_tokens)
    return _total(parts, ())


def _total(message: Iterable[int | None], iterations: Iterable[int | None]) -> int | None:
    """The sum of a message's counts, or of its iterations if that is more; `None` if none is known."""
    sums = [sum(known) for counts in (message, iterations) if (known := [one for one in counts if one is not None])]
    return max(sums, default=None)

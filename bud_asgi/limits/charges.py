"""Which limits apply to a request, and what it takes from each: reserved before the call, and booked after it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import cast

from bud_asgi.exchange import Exchange, Principal
from bud_asgi.host_code import host_code_error
from bud_asgi.limit import KINDS, Dimension, Kind, Limit
from bud_asgi.limits.store import Charge
from bud_asgi.options import check_choice, check_integer, mismatch
from bud_asgi.protocol.operations import MODELS_API, Operation
from bud_asgi.protocol.usage import Iteration, Usage

Amounts = Mapping[Kind, int]
"""Whole units by kind. A missing kind has its usual amount."""

CostFunction = Callable[[Exchange], Amounts]
"""What a request takes, as a host computes it."""

MISCONFIGURED = "The rate limits of this gateway are misconfigured."
"""What the client is answered where code of the host's has returned something wrong; the log has the reason."""

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
    if exchange.operation in MODELS_API or exchange.read_request is None:
        return None
    return exchange.read_request.model


def charges_of(limits: Iterable[Limit], exchange: Exchange, family: str, model: str | None) -> tuple[Charge, ...]:
    """A charge of 1 for each limit that applies. Requests without a principal share one bucket."""
    charges: list[Charge] = []
    keys: dict[str, str] = {}  # one string for all buckets of a caller: there may be many callers
    for limit in limits:
        if limit.models != ("*",) and (model is None or not limit.applies_to_model(model)):
            continue
        per = limit.per
        name = _named_by(exchange, limit, per) if callable(per) else bucket_name(limit, exchange.principal, model)
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


def _named_by(exchange: Exchange, limit: Limit, per: Dimension) -> str | None:
    """What the function of a limit returns. Raises a `GatewayError` (500) for anything but a string or `None`."""
    name = per(exchange)
    if name is None or isinstance(name, str):  # pyright: ignore[reportUnnecessaryIsInstance]
        return name
    fault = mismatch(f"the result of {limit.dimension}()", "a string or None", name)
    raise host_code_error(exchange.request_id, str(fault), MISCONFIGURED)


def checked_amounts(result: object) -> Amounts:
    """What a `CostFunction` has returned. Raises `OptionError` for anything but amounts by kind."""
    if not isinstance(result, Mapping):
        raise mismatch("its result", 'a mapping of kinds to whole numbers, such as {"tokens": 500}', result)
    amounts = cast("Mapping[Kind, int]", result)
    for kind, amount in amounts.items():
        check_choice("its result", kind, KINDS)
        check_integer(f"its result, {kind}", amount, "a whole number, at least 0", minimum=0)
    return amounts


def used_by(
    exchange: Exchange, charges: Sequence[Charge], reserved: Sequence[int], tokens: tuple[int | None, int | None] | None
) -> list[int]:
    """What a finished request has used of each limit. `0` is a count; without one, the reserved amount stands.

    The caller pays for one attempt, whose usage is `exchange.usage`, and `tokens` its `used_tokens`. Without one, no
    tokens were used, unless an upstream has replied without reporting them, or another app has answered.
    """
    own, usage = exchange.operation in _OWN, exchange.usage
    begun = bool(exchange.attempts) or not own
    taken = given = 0 if own and not (begun and exchange.attempts[-1].end == "answered") else None
    if tokens is not None:
        taken, given = tokens
    used = used_with_reads = _by_kind(None if begun else 0, taken, given)
    if usage is not None and (usage.cache_read_input_tokens or usage.iterations):
        used_with_reads = _by_kind(used["requests"], *used_tokens(usage, cache_reads=True))
    limits = [charge.limit for charge in charges]
    counts = [(used_with_reads if limit.cache_reads else used)[limit.kind] for limit in limits]
    return [amount if count is None else count for count, amount in zip(counts, reserved, strict=True)]


def _by_kind(requests: int | None, taken: int | None, given: int | None) -> Mapping[Kind, int | None]:
    tokens = None if taken is None or given is None else taken + given
    return {
        "requests": requests,
        "input_tokens": taken,
        "output_tokens": given,
        "tokens": tokens,
        "concurrent": 0,
    }


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

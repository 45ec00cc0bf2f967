"""Which limits apply to a request, and from which bucket of each it takes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from bud_asgi.exchange import Exchange, Principal
from bud_asgi.limit import Dimension, Limit
from bud_asgi.limits.answers import misconfigured
from bud_asgi.limits.store import Charge
from bud_asgi.options import mismatch
from bud_asgi.protocol.operations import MODELS_API, Operation

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
    raise misconfigured(exchange.request_id, str(fault))

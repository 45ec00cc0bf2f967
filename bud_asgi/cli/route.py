"""Where a request would go, and why: a request is made and resolved, but not sent."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Mapping, Sequence

import click
import msgspec
from starlette.types import Message

from bud_asgi.attempt import Target
from bud_asgi.cli.keys import caller_named
from bud_asgi.cli.reachable import ANONYMOUS, conditions_in_words, has_other_callers, never_used, routes_of
from bud_asgi.cli.tables import table
from bud_asgi.cli.terminal import columns
from bud_asgi.config import Settings
from bud_asgi.exchange import Exchange, Principal
from bud_asgi.field_policy import FieldPolicy, without_fields
from bud_asgi.options import url_shown
from bud_asgi.protocol.account_state import pinning_state
from bud_asgi.protocol.errors import GatewayError
from bud_asgi.protocol.request import MessagesRequest, edited
from bud_asgi.providers import Loss, Provider, ProviderRequest, check_bounds, traits_of
from bud_asgi.routing import Chooser, RouteTable, Step, TableRoute, resolve, targets_for_all

Headers = Sequence[tuple[bytes, bytes]]

_DEFAULT_HEADERS: Mapping[bytes, bytes] = {b"anthropic-version": b"2023-06-01", b"content-type": b"application/json"}
_RESULTS = {"model": "other models", "used": "used", "later": "an earlier route is used"}


class ExplainedRoute(msgspec.Struct, frozen=True):
    """A route of the file, in the order of the look-up.

    `result` is `model` (it is for other models), `condition` (the one in `unmet` does not hold), `used`, or `later` (an
    earlier one is used).
    """

    route: str
    model: str
    conditions: str
    result: str
    unmet: str


class ExplainedTarget(msgspec.Struct, frozen=True):
    """A target of the route.

    `model` is the name for the provider, `url` where the request is sent. `dropped` are the fields and betas that are
    left out, `lacks` those that the request needs and the provider does not support: if other targets have them, it
    comes `later` than these. `refused` is why the provider cannot get this request. `skipped` is why it is not tried.
    """

    provider: str
    model: str
    weight: int
    concurrency: int | None
    url: str
    dropped: tuple[str, ...]
    lacks: tuple[str, ...]
    later: bool
    refused: str | None
    skipped: str | None


class Refusal(msgspec.Struct, frozen=True):
    """The error that the client would get."""

    status: int
    type: str
    message: str


class Explanation(msgspec.Struct, frozen=True):
    """Where a request would go. `route` is `None` if it is refused. `never_used` maps routes of the file to reasons.

    `hedge`, `failover_on_unknown` and `retry_without_thinking` are those of the route.
    """

    model: str
    principal: str | None
    bytes: int
    route: str | None
    balance: str | None
    hedge: float | None
    failover_on_unknown: bool
    retry_without_thinking: bool
    routes: Sequence[ExplainedRoute]
    groups: Sequence[Sequence[ExplainedTarget]]
    error: Refusal | None
    never_used: Mapping[str, str]


def show_route(
    settings: Settings, model: str, caller: Principal | None, body: bytes | None, headers: Headers, *, as_json: bool
) -> Explanation:
    """Write where a request would go to stdout, and return it.

    Without a caller, permissions are not checked, and no condition on it holds. Without a body, a small one is assumed.
    """
    explained = asyncio.run(_explain(settings, model, caller, body, headers))
    if as_json:
        click.echo(msgspec.json.format(msgspec.json.encode(explained)))
    else:
        click.echo(_in_words(explained, columns(sys.stdout)))
    return explained


def caller_for(settings: Settings, name: str | None, team: str | None) -> Principal | None:
    """The caller whose key has this name, or the one with this id and team at an issuer; `None` without a name.

    The permissions of a caller at an issuer depend on its token: here it has all. Raises `click.BadParameter`.
    """
    if name is not None and any(issuer.prefix and name.startswith(issuer.prefix) for issuer in settings.issuers):
        return Principal(id=name, team=team or None)
    if team is not None:
        raise click.BadParameter("only for a --principal with a token of an issuer", param_hint="--team")
    if name is None:
        return None if settings.keys or has_other_callers(settings) else ANONYMOUS
    return caller_named(settings, name)


async def _explain(
    settings: Settings, model: str, principal: Principal | None, body: bytes | None, headers: Headers
) -> Explanation:
    routes = RouteTable(routes_of(settings))
    steps: Sequence[Step] = ()
    error: Refusal | None = None
    groups: Sequence[Sequence[ExplainedTarget]] = ()
    route: TableRoute | None = None
    exchange = _exchange(settings, principal, headers)
    size = 0
    try:
        body = _body_for(model, body)
        size = len(body)
        await _read(exchange, body)
        steps = routes.explain(exchange, model)
        policy = FieldPolicy(settings.fields, "fields")
        exchange.account_fields = policy.check(exchange.decoded_request, exchange.header_names.account)
        resolve(routes, exchange)
        route = routes.resolve_for(exchange, model)
        groups = _explain_groups(settings, route, exchange, policy)
    except GatewayError as failure:
        error = Refusal(failure.status, failure.type, str(failure))
    return Explanation(
        model=model,
        principal=None if principal is None else principal.id,
        bytes=size,
        route=None if route is None or error else _name(settings, route.index),
        balance=route.balance if route and any(len(group) > 1 for group in route.groups) else None,
        hedge=None if route is None else route.hedge,
        failover_on_unknown=route is None or route.failover_on_unknown,
        retry_without_thinking=route is not None and route.retry_without_thinking,
        routes=[_explain_step(settings, routes.routes[step.index].model, step) for step in steps],
        groups=groups,
        error=error,
        never_used={_name(settings, index): reason for index, reason in never_used(settings)},
    )


def _exchange(settings: Settings, principal: Principal | None, headers: Headers) -> Exchange:
    given = {name for name, _ in headers}
    lines = [*headers, *(line for line in _DEFAULT_HEADERS.items() if line[0] not in given)]
    exchange = Exchange.of({"type": "http", "method": "POST", "path": "/v1/messages", "headers": lines})
    exchange.operation = "messages.create"
    exchange.principal, exchange.max_body = principal, settings.max_body
    exchange.other_models = any(traits_of(provider).has_own_bounds for provider in settings.providers)
    return exchange


def _body_for(model: str, body: bytes | None) -> bytes:
    """The body with the model in it. Raises `InvalidRequest` for what is not an object."""
    if body is None:
        return msgspec.json.encode(
            {"model": model, "max_tokens": 1, "messages": [{"role": "user", "content": "Hello"}]}
        )
    given, name = MessagesRequest(body, model, None, False), msgspec.json.encode(model)
    return body if given.value("model") == name else edited(given, changed={"model": name}).body


async def _read(exchange: Exchange, body: bytes) -> None:
    async def receive() -> Message:
        return {"type": "http.request", "body": body, "more_body": False}

    await exchange.request(receive)


def _explain_step(settings: Settings, model: str, step: Step) -> ExplainedRoute:
    conditions = conditions_in_words(routes_of(settings)[step.index])
    return ExplainedRoute(_name(settings, step.index), model, conditions, step.result, step.unmet)


def _explain_groups(
    settings: Settings, route: TableRoute, exchange: Exchange, policy: FieldPolicy
) -> Sequence[Sequence[ExplainedTarget]]:
    """Raises `InvalidRequest` if no target serves all models that the request names."""
    providers = {provider.name: provider for provider in settings.providers}
    dropped_fields = {name: _dropped_fields(provider, policy) for name, provider in providers.items()}
    chooser = Chooser(providers, dropped_fields)
    serving = targets_for_all(exchange, route.targets)
    preferred = chooser.prefer(exchange, route, serving)

    def explain(target: Target) -> ExplainedTarget:
        provider, loss = providers[target.provider], chooser.losses.at(exchange, target)
        url, dropped, refused = _encode(provider, target, exchange, dropped_fields[target.provider])
        later = any(target in group for group in preferred.later)
        skipped = None
        if target not in serving:
            skipped = "does not serve all models that the request names"
        elif not later and not any(target in group for group in preferred.groups):
            skipped = _why_skipped(exchange, loss)
        weight, model = target.weight or 1, target.model or route.model
        lacks = loss.rejected + loss.dropped
        return ExplainedTarget(
            target.provider, model, weight, target.concurrency, url, dropped, lacks, later, refused, skipped
        )

    return [[explain(target) for target in group] for group in route.groups]


def _dropped_fields(provider: Provider, policy: FieldPolicy) -> frozenset[str]:
    allowed = traits_of(provider).allowed_fields
    return policy.dropped_for(allowed, client_pays=not provider.credential.is_operators)


def _why_skipped(exchange: Exchange, loss: Loss) -> str:
    if loss.rejected:
        return f"rejects {', '.join(loss.rejected)}, which another target accepts"
    return f"the request names state of one account ({', '.join(sorted(pinning_state(exchange.decoded_request)))})"


def _encode(
    provider: Provider, target: Target, exchange: Exchange, fields: frozenset[str]
) -> tuple[str, tuple[str, ...], str | None]:
    """The URL of a request at a provider, what it drops, and why it refuses the request, if it does.

    `fields` are the account fields that the provider does not get.
    """
    request, headers, dropped = without_fields(
        exchange.decoded_request, exchange.headers, exchange.account_fields, fields
    )
    try:
        check_bounds(request, provider, target.model)
        encoded = provider.encode(
            ProviderRequest(request, headers, target.model, exchange.request_id, names=exchange.header_names)
        )
    except GatewayError as error:
        return "", dropped, str(error)
    origin = encoded.request.origin
    url = f"{'https' if origin.tls else 'http'}://{origin.authority.decode()}{encoded.request.target.decode()}"
    return url_shown(url), dropped + encoded.dropped, None


def _name(settings: Settings, index: int) -> str:
    return f"routes[{index}]" if settings.routes else "(no routes)"


def _in_words(explained: Explanation, width: int | None) -> str:
    caller = "any caller" if explained.principal is None else explained.principal
    result = f"served by {explained.route}" if explained.route else "not served"
    parts = [f"{explained.model} for {caller}, {explained.bytes} bytes: {result}"]
    if explained.routes:
        rows = [_route_row(one) for one in explained.routes]
        parts.append(table(("ROUTE", "MODEL", "CONDITIONS", "RESULT"), rows, width))
    if explained.groups:
        head = ("GROUP", "PROVIDER", "WEIGHT", "CONCURRENCY", "MODEL", "URL", "DROPPED", "NOTE")
        rows = [_target_row(str(number), one) for number, group in enumerate(explained.groups, 1) for one in group]
        parts.append(table(head, rows, width))
    if explained.balance:
        parts.append(f"The targets of a group share the load by {explained.balance}.")
    if explained.hedge is not None:
        parts.append(f"If a target has not begun to respond after {explained.hedge:g} s, the next one is called too.")
    if not explained.failover_on_unknown:
        parts.append("If no response comes to a request that was sent, no other target is tried.")
    if explained.retry_without_thinking:
        parts.append("If a target refuses the thinking blocks of the conversation, it is tried again without them.")
    if explained.never_used:
        parts.append("\n".join(f"{route} is never used: {why}." for route, why in explained.never_used.items()))
    return "\n\n".join(parts)


def _route_row(route: ExplainedRoute) -> tuple[str, ...]:
    result = f"the condition {route.unmet} does not hold" if route.result == "condition" else _RESULTS[route.result]
    return route.route, route.model, route.conditions or "-", result


def _target_row(group: str, target: ExplainedTarget) -> tuple[str, ...]:
    notes = [f"skipped: {target.skipped}"] if target.skipped else []
    lacks = ", ".join(target.lacks)
    if target.lacks and not target.skipped:
        notes.append(f"lacks {lacks}: tried after the targets that have it" if target.later else f"lacks {lacks}")
    notes += [f"refused: {target.refused}"] if target.refused else []
    return (
        group,
        target.provider,
        str(target.weight),
        str(target.concurrency or "-"),
        target.model,
        target.url or "-",
        ", ".join(target.dropped) or "-",
        "; ".join(notes) or "-",
    )

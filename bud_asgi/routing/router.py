"""Routers of the host's: one function, or an object with such a function and a list of what it serves."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from functools import lru_cache
from inspect import isawaitable
from typing import Protocol, TypeVar, cast

import msgspec
from starlette.exceptions import HTTPException

from bud_asgi.exchange import Exchange, Offer, Principal, ResolvedRoute
from bud_asgi.host_code import add_note_once, host_code_error
from bud_asgi.options import OptionError, check_function, check_items, check_type, mismatch, shown
from bud_asgi.protocol.errors import GatewayError, HostRefused, ModelNotAllowed, NotFound
from bud_asgi.protocol.fields import MAX_MODEL_NAME
from bud_asgi.protocol.patterns import base_name, is_resource_name, names_resource
from bud_asgi.routing.conditions import UNCONDITIONAL
from bud_asgi.routing.route import Route
from bud_asgi.routing.table import RouteTable, TableRoute, table_route

MAX_SECONDS = 10.0
"""How long the calls of a router for one request may take together, in seconds."""

MAX_ROUTES = 1024
"""How many routes are remembered in the form in which they are used."""

Routed = Route | RouteTable | ResolvedRoute | None
"""What a router returns for a model.

A `Route`: it is used. A `RouteTable`: the model is looked up in it. A route with a `choose` of its own. `None`: the
model is not served.
"""

RouterFunction = Callable[[str, Principal], Routed | Awaitable[Routed]]
"""A router that is one function, async or not, of the model and the caller."""

T = TypeVar("T")


class Router(Protocol):
    """A router that can also list its models. Both methods may be async; cancelled when the client disconnects."""

    def resolve(self, model: str, principal: Principal | None) -> Routed | Awaitable[Routed]:
        """The route for a model name, which comes without a context window (`[1m]`).

        Also called for each further model that a body names, such as a fallback. May raise any `GatewayError` to refuse
        the request. All calls for one request may take `MAX_SECONDS` together.
        """
        ...

    def offers(self, principal: Principal | None) -> Sequence[Offer] | Awaitable[Sequence[Offer]]:
        """What the Models API lists, in the order of the look-up: names that can be resolved, and their targets."""
        ...


class HostRouter:
    """Calls a router of the host's, and checks what it returns."""

    __slots__ = ("_name", "_offers", "_resolve", "_table_route")

    def __init__(self, router: Router | RouterFunction) -> None:
        self._resolve: Callable[[str, Principal | None], object]
        self._offers: Callable[[Principal | None], object] | None = None
        if _has_methods(router):
            listing = cast("Router", router)
            self._resolve, self._offers, self._name = listing.resolve, listing.offers, type(router).__name__
        else:
            self._resolve = cast("Callable[[str, Principal | None], object]", router)
            self._name = str(getattr(router, "__qualname__", type(router).__name__))
        self._table_route: Callable[[Route], TableRoute] = lru_cache(maxsize=MAX_ROUTES)(table_route)

    async def within_limit(self, work: Awaitable[T], exchange: Exchange) -> T:
        """Await what calls the router, for at most `MAX_SECONDS`. Raises a `GatewayError` (500) past that."""
        limit = asyncio.timeout(MAX_SECONDS)
        try:
            async with limit:
                return await work
        except TimeoutError as error:
            if not limit.expired():  # one of the host's own
                raise
            raise self._fault(exchange, f"did not return within {MAX_SECONDS:g} s") from error

    async def resolve(self, exchange: Exchange, model: str) -> ResolvedRoute:
        """The route for a model name. Of an unread request no condition on headers or size holds.

        Raises `NotFound`, `ModelNotAllowed`, and a `GatewayError` (500) for a wrong result. Exceptions of the host's
        propagate.
        """
        principal = exchange.principal
        if principal is None and self._offers is None:
            raise self._fault(exchange, "needs a principal: put AuthMiddleware in front of RoutingMiddleware", model)
        found = await self._call(self._resolve, base_name(model), principal)
        if found is None:
            raise NotFound(f"model: {model}")
        if isinstance(found, Route):
            return self._used(found, model, exchange)
        if isinstance(found, RouteTable):
            read = exchange.read_request is not None
            return found.resolve_for(exchange, model) if read else found.resolve(model, principal)
        known_as: object = getattr(found, "model", None)
        if known_as and isinstance(known_as, str) and callable(getattr(found, "choose", None)):
            return cast("ResolvedRoute", found)
        expected = "a Route, a RouteTable, None, or a route with a model and a method choose()"
        raise self._fault(exchange, f"returned {shown(found)} instead of {expected} for model {model!r}", model)

    async def offers(self, exchange: Exchange) -> Sequence[Offer]:
        """What the router serves, for the Models API; of a function, what is known of that.

        A function is called for the model that is to be retrieved, or else for the exact names that the caller may use.
        Raises a `GatewayError` (500) for a wrong result. Exceptions of the host's propagate.
        """
        if self._offers is None:
            return await self._resolved_offers(exchange)
        offers = cast("Sequence[Offer]", await self._call(self._offers, exchange.principal))
        try:
            return check_items("the result of offers()", offers, "a list of Offer", _check_offer)
        except OptionError as error:
            raise self._fault(exchange, f"returned a wrong result: {error}") from error

    async def _call(self, function: Callable[..., object], *arguments: object) -> object:
        try:
            found = function(*arguments)
            return await cast("Awaitable[object]", found) if isawaitable(found) else found
        except HTTPException as error:
            raise HostRefused(error.status_code, error.detail, error.headers) from error
        except Exception as error:
            refusals = "an HTTPException or a GatewayError"
            add_note_once(error, f"Raised by the router {self._name}. To refuse a request, raise {refusals}.")
            raise

    def _used(self, route: Route, model: str, exchange: Exchange) -> TableRoute:
        """The form in which a route is used for a model name. Equal routes have the same groups."""
        principal, used = exchange.principal, self._table_route(route)
        if used.conditions is not UNCONDITIONAL:
            read = exchange if exchange.read_request is not None else None
            if used.conditions.unmet(principal, read) is not None:
                raise NotFound(f"model: {model}")
        # A function that makes a route of any name has not meant a resource, which may belong to another account.
        if is_resource_name(model) and (principal is None or not names_resource(principal.models, model)):
            raise ModelNotAllowed(model)
        return msgspec.structs.replace(used, model=base_name(model)) if "*" in route.model else used

    async def _resolved_offers(self, exchange: Exchange) -> Sequence[Offer]:
        own = exchange.principal.models if exchange.principal is not None else ()
        names = (base_name(exchange.model_id),) if exchange.operation == "models.retrieve" else own
        offers: list[Offer] = []
        for name in names:
            if "*" in name or len(name) > MAX_MODEL_NAME:
                continue
            try:
                route = await self.resolve(exchange, name)
            except (NotFound, ModelNotAllowed):
                continue
            if exchange.principal is not None and exchange.principal.may_use(route.model):
                offers.append(Offer(name, tuple(route.targets) if isinstance(route, TableRoute) else ()))
        return offers

    def _fault(self, exchange: Exchange, fault: str, model: str = "") -> GatewayError:
        answer = (
            f"The route of this model is misconfigured: {model}"
            if model
            else "The routes of this gateway are misconfigured."
        )
        return host_code_error(exchange.request_id, f"the router {self._name} {fault}", answer)


def make_router(option: str, value: RouteTable | Router | RouterFunction, others: str = "") -> RouteTable | HostRouter:
    """Make what resolves names out of a router of the host's. A `RouteTable` stays as it is. Raises `OptionError`.

    `others` is what else the option accepts, for the error.
    """
    if getattr(type(value), "resolve", None) is RouteTable.resolve:  # also in a subclass that leaves it as it is
        return cast("RouteTable", value)
    expected = (
        f"{others}a RouteTable, a function of the model and the principal, or an object with the methods of a Router"
    )
    if isinstance(value, type):
        raise mismatch(option, expected, value)
    if not _has_methods(value):
        check_function(option, value, expected, "", None)
    return HostRouter(value)


def _has_methods(value: object) -> bool:
    return all(callable(getattr(value, name, None)) for name in ("resolve", "offers"))


def _check_offer(name: str, offer: object) -> None:
    check_type(name, offer, Offer, "an Offer")

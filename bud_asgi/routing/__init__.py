"""Routing: the stage that resolves a model name, its middleware, the route table, and which target is tried first."""

from bud_asgi.exchange import Offer, ResolvedRoute, Target
from bud_asgi.protocol.errors import ModelNotAllowed, NotFound
from bud_asgi.routing.chooser import Chooser
from bud_asgi.routing.fleet import Fleet
from bud_asgi.routing.health import Call, Health, Verdict
from bud_asgi.routing.middleware import RoutingMiddleware
from bud_asgi.routing.route import Balance, Group, Route, unreachable
from bud_asgi.routing.route_header import explain_route
from bud_asgi.routing.router import HostRouter, Routed, Router, RouterFunction, make_router
from bud_asgi.routing.stage import (
    check_permission,
    choose_targets,
    find_offers,
    resolve,
    resolve_by_host,
    targets_for_all,
)
from bud_asgi.routing.table import RouteTable, Step, TableRoute

__all__ = [
    "Balance",
    "Call",
    "Chooser",
    "Fleet",
    "Group",
    "Health",
    "HostRouter",
    "ModelNotAllowed",
    "NotFound",
    "Offer",
    "ResolvedRoute",
    "Route",
    "RouteTable",
    "Routed",
    "Router",
    "RouterFunction",
    "RoutingMiddleware",
    "Step",
    "TableRoute",
    "Target",
    "Verdict",
    "check_permission",
    "choose_targets",
    "explain_route",
    "find_offers",
    "make_router",
    "resolve",
    "resolve_by_host",
    "targets_for_all",
    "unreachable",
]

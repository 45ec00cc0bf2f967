"""Routing: the stage that resolves a model name, its middleware, and the route table."""

from bud_asgi.routing.middleware import RoutingMiddleware
from bud_asgi.routing.route import Balance, Group, Route, unreachable
from bud_asgi.routing.stage import Router, check_permission, choose_targets, find_offers, resolve, targets_for_all
from bud_asgi.routing.table import RouteTable, Step, TableRoute

__all__ = [
    "Balance",
    "Group",
    "Route",
    "RouteTable",
    "Router",
    "RoutingMiddleware",
    "Step",
    "TableRoute",
    "check_permission",
    "choose_targets",
    "find_offers",
    "resolve",
    "targets_for_all",
    "unreachable",
]

"""Routing: the stage that resolves a model name, its middleware, and the route table."""

from bud_asgi.routing.middleware import RoutingMiddleware
from bud_asgi.routing.stage import Router, choose_targets, find_offers, resolve
from bud_asgi.routing.table import Route, RouteTable

__all__ = ["Route", "RouteTable", "Router", "RoutingMiddleware", "choose_targets", "find_offers", "resolve"]

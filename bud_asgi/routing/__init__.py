"""Where to: the middleware that resolves a model name, and the route table."""

from bud_asgi.routing.middleware import Router, RoutingMiddleware
from bud_asgi.routing.table import Route, RouteTable

__all__ = ["Route", "RouteTable", "Router", "RoutingMiddleware"]

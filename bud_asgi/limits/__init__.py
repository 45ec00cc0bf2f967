"""Limits: the stage that reserves and settles, its middleware, the arithmetic, and the store in memory."""

from bud_asgi.limits.limit import Charge, Limit, check_limits
from bud_asgi.limits.memory import MemoryStore
from bud_asgi.limits.middleware import RateLimitMiddleware
from bud_asgi.limits.stage import Limiter
from bud_asgi.limits.store import Grant, LimitStatus, LimitStore, RateLimited

__all__ = [
    "Charge",
    "Grant",
    "Limit",
    "LimitStatus",
    "LimitStore",
    "Limiter",
    "MemoryStore",
    "RateLimitMiddleware",
    "RateLimited",
    "check_limits",
]

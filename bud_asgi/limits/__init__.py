"""May they: the middleware that reserves and settles, the arithmetic of limits, the store in memory."""

from bud_asgi.limits.limit import Charge, Limit
from bud_asgi.limits.memory import MemoryStore
from bud_asgi.limits.middleware import RateLimitMiddleware
from bud_asgi.limits.store import Grant, LimitStatus, LimitStore, RateLimited

__all__ = ["Charge", "Grant", "Limit", "LimitStatus", "LimitStore", "MemoryStore", "RateLimitMiddleware", "RateLimited"]

"""May they: the middleware that reserves and settles, the arithmetic of limits, the store in memory."""

from bud_asgi.limits.limit import Demand, Limit
from bud_asgi.limits.memory import MemoryStore
from bud_asgi.limits.middleware import RateLimitMiddleware
from bud_asgi.limits.store import Granted, LimitStore, RateLimited, Standing

__all__ = ["Demand", "Granted", "Limit", "LimitStore", "MemoryStore", "RateLimitMiddleware", "RateLimited", "Standing"]

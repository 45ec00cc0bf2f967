"""Limits: the stage that reserves and settles, its middleware, the arithmetic, and the store in memory."""

from bud_asgi.limit import Limit, check_limits
from bud_asgi.limits.amounts import Amounts
from bud_asgi.limits.answers import RateLimited
from bud_asgi.limits.memory import MemoryStore
from bud_asgi.limits.middleware import RateLimitMiddleware
from bud_asgi.limits.plans import NO_LIMITS
from bud_asgi.limits.redis import RedisStore
from bud_asgi.limits.stage import Admission, Limiter
from bud_asgi.limits.standing import Standing
from bud_asgi.limits.store import (
    Charge,
    Grant,
    InspectableStore,
    LimitStatus,
    LimitStore,
    SharedStore,
    StoreUnavailable,
)

__all__ = [
    "NO_LIMITS",
    "Admission",
    "Amounts",
    "Charge",
    "Grant",
    "InspectableStore",
    "Limit",
    "LimitStatus",
    "LimitStore",
    "Limiter",
    "MemoryStore",
    "RateLimitMiddleware",
    "RateLimited",
    "RedisStore",
    "SharedStore",
    "Standing",
    "StoreUnavailable",
    "check_limits",
]

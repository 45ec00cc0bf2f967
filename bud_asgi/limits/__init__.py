"""Limits: a request reserves what it will probably use, and is settled to what it has used.

A good order to read it in:

- `bud_asgi.limit`, what a limit is; `store`, the interface of stores; `bucket`, the arithmetic, and `memory`, a store;
- `charges`, which limits apply to a request; `amounts`, how much it takes; `estimates`, what is reserved for tokens;
  `plans`, the three for a caller, remembered;
- `stage`, which admits and settles, with `refusals`, `waiting` on `fair_queue`, and `leases`; `answers`, what clients
  get; `standing`, what has been used; `middleware`, the stage for other apps;
- `redis`, a store for many processes: `store`, its Lua scripts, and how they are called: a `link` keeps a `channel` to
  the node that `nodes` finds.
"""

from bud_asgi.exchange import Reservation
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
    check_store,
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
    "Reservation",
    "SharedStore",
    "Standing",
    "StoreUnavailable",
    "check_limits",
    "check_store",
]

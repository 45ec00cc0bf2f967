"""Limits in Redis or Valkey, shared by many processes and machines (extra `redis`)."""

from bud_asgi.limits.redis.fallback import OnFailure
from bud_asgi.limits.redis.store import RedisStore
from bud_asgi.limits.redis.timing import StoreTiming

__all__ = ["OnFailure", "RedisStore", "StoreTiming"]

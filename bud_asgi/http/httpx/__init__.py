"""The httpx engine: `HttpClient` over an `httpx` or `httpx2` client or transport."""

from bud_asgi.http.httpx.engine import HttpxEngine

__all__ = ["HttpxEngine"]

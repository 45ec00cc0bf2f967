"""The httpx engine: an `HttpClient` over a client or transport of httpx or httpx2."""

from bud_asgi.http.httpx.engine import HttpxEngine

__all__ = ["HttpxEngine"]

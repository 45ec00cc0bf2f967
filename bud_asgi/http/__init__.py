"""The way up: the seam that providers send over, and the engine that fills it."""

from bud_asgi.http.engine import Engine
from bud_asgi.http.pool import Figures, PoolLimits
from bud_asgi.http.seam import Body, Header, HttpClient, HttpError, HttpReply, HttpRequest, Origin, Timeouts
from bud_asgi.http.whole import read_body

__all__ = [
    "Body",
    "Engine",
    "Figures",
    "Header",
    "HttpClient",
    "HttpError",
    "HttpReply",
    "HttpRequest",
    "Origin",
    "PoolLimits",
    "Timeouts",
    "read_body",
]

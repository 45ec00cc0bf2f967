"""Requests to upstreams: the `HttpClient` seam that providers send through, and the engine that implements it."""

from bud_asgi.http.converted import Codec, ConvertedReply
from bud_asgi.http.encoding import decode_content
from bud_asgi.http.engine import Engine
from bud_asgi.http.fields import Header, HeaderBlock, header_block
from bud_asgi.http.pool import PoolLimits, PoolStats
from bud_asgi.http.seam import (
    Body,
    HttpClient,
    HttpError,
    HttpReply,
    HttpRequest,
    Origin,
    Timeouts,
    check_client,
    read_body,
)

__all__ = [
    "Body",
    "Codec",
    "ConvertedReply",
    "Engine",
    "Header",
    "HeaderBlock",
    "HttpClient",
    "HttpError",
    "HttpReply",
    "HttpRequest",
    "Origin",
    "PoolLimits",
    "PoolStats",
    "Timeouts",
    "check_client",
    "decode_content",
    "header_block",
    "read_body",
]

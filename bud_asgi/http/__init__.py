"""Requests to upstreams: the `HttpClient` seam that providers send through, and the engine that implements it."""

from bud_asgi.http.captured import CapturedReply
from bud_asgi.http.converted import Codec, ConvertedReply
from bud_asgi.http.encoding import decode_content
from bud_asgi.http.engine import Engine
from bud_asgi.http.fields import Header, HeaderBlock, header_block
from bud_asgi.http.pool import PoolLimits, PoolStats, ReportsPools
from bud_asgi.http.reply import Reply
from bud_asgi.http.seam import (
    Body,
    HttpClient,
    HttpError,
    HttpReply,
    HttpRequest,
    Origin,
    Pooling,
    check_client,
    next_chunk,
    read_body,
    usual_origin,
)
from bud_asgi.timeouts import Timeouts

__all__ = [
    "Body",
    "CapturedReply",
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
    "Pooling",
    "Reply",
    "ReportsPools",
    "Timeouts",
    "check_client",
    "decode_content",
    "header_block",
    "next_chunk",
    "read_body",
    "usual_origin",
]

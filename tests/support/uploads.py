"""Clients that upload a request body as they please: in part, slowly, without end, or never."""

from __future__ import annotations

import socket
import time
from collections.abc import Generator, Mapping
from contextlib import contextmanager, suppress

import httpx
from starlette.middleware import Middleware

from bud_asgi import ApiKeys, AuthMiddleware, Limit, RateLimitMiddleware, Route, RouteTable, RoutingMiddleware
from support.calls import HEADERS
from support.gateway import Gateway
from support.sockets import connect

CHUNK = b"10000\r\n" + b" " * 65536 + b"\r\n"
"""64 KB of a chunked body."""


def stack(keys: ApiKeys, *limits: Limit) -> list[Middleware]:
    """The three stages as a stack of middleware."""
    return [
        Middleware(AuthMiddleware, backend=keys),
        Middleware(RateLimitMiddleware, limits=limits),
        Middleware(RoutingMiddleware, router=RouteTable([Route("*", to=["anthropic"])])),
    ]


def head(path: str, lines: Mapping[str, str], *, method: str = "POST") -> bytes:
    """The head of a request, with the headers of the usual call unless `lines` replaces them."""
    every = {"host": "x", **HEADERS, **lines}
    text = [f"{method} {path} HTTP/1.1", *(f"{name}: {value}" for name, value in every.items())]
    return "\r\n".join(text).encode() + b"\r\n\r\n"


@contextmanager
def upload(
    here: Gateway, lines: Mapping[str, str], sent: bytes = b"", *, method: str = "POST", path: str = "/v1/messages"
) -> Generator[socket.socket]:
    """Begin a request with the given headers, and send a part of its body."""
    with connect(here.base_url) as peer:
        peer.sendall(head(httpx.URL(here.base_url).path + path, lines, method=method) + sent)
        yield peer


def read_answer(peer: socket.socket) -> tuple[int, bytes]:
    """Read until the server closes the connection. The status, and all that arrived."""
    received = b""
    with suppress(ConnectionResetError):
        while chunk := peer.recv(65536):
            received += chunk
    return int(received.split(b" ", 2)[1]), received


def upload_until_closed(peer: socket.socket, seconds: float = 30.0) -> int:
    """Send chunks until the server takes no more. The number of bytes that it took; fails after `seconds`."""
    taken, deadline = 0, time.monotonic() + seconds
    peer.settimeout(0.5)
    with suppress(ConnectionError, TimeoutError):
        while True:
            assert time.monotonic() < deadline, f"the server still reads after {taken} bytes"
            peer.sendall(CHUNK)
            taken += 65536
    peer.settimeout(30.0)
    return taken

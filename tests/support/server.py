"""The app under the connections of `bud-asgi serve`, in a thread, with limits that a test can wait for."""

from __future__ import annotations

import json
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

from starlette.types import ASGIApp

from bud_asgi.server import ConnectionFactory, ServerLimits
from support.serving import serving
from support.sockets import raw_exchange

TICK = 0.02
HEALTH = b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n"
LAST_HEALTH = b"GET /healthz HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n"


@contextmanager
def limited_server(app: ASGIApp, *, loop: str = "auto", **limits: Any) -> Generator[str]:
    """Serve `app`; `limits` are those of `ServerLimits`. Yields the base URL."""
    settings: dict[str, Any] = {"tick": TICK, **limits}
    with serving(app, loop=loop, http=ConnectionFactory(ServerLimits(**settings))) as url:
        yield url


def status_of(reply: bytes) -> int:
    """The status of the first response in `reply`."""
    assert reply.startswith(b"HTTP/1.1 "), reply[:200]
    return int(reply[9:12])


def assert_refused(reply: bytes, status: int, kind: str) -> dict[str, Any]:
    """Assert that `reply` is one error in the envelope, after which the connection is closed. Returns the envelope."""
    head, _, body = reply.partition(b"\r\n\r\n")
    assert status_of(reply) == status
    lines = dict(line.lower().split(b": ", 1) for line in head.split(b"\r\n")[1:])
    envelope: dict[str, Any] = json.loads(body)
    assert (envelope["type"], envelope["error"]["type"]) == ("error", kind)
    assert lines[b"request-id"].decode() == envelope["request_id"]
    assert lines[b"content-type"] == b"application/json"
    assert lines[b"content-length"] == str(len(body)).encode()
    assert lines[b"connection"] == b"close"
    return envelope


def assert_serves(url: str) -> None:
    """Assert that a new client gets an answer."""
    assert status_of(raw_exchange(url, LAST_HEALTH)) == 200


def assert_refuses(url: str, request: bytes, status: int, kind: str) -> dict[str, Any]:
    """Send `request` on a connection of its own, and assert that the answer is that error."""
    return assert_refused(raw_exchange(url, request), status, kind)

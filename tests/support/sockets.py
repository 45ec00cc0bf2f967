"""Clients on a plain socket, which can stop reading, disconnect, or send what no HTTP client would."""

from __future__ import annotations

import json
import socket
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from typing import Any

import httpx

from support.calls import HEADERS


def connect(url: str, timeout: float = 30.0) -> socket.socket:
    """A connection to the server of a URL. `timeout` is for each operation, in seconds."""
    where = httpx.URL(url)
    return socket.create_connection((where.host, where.port or 80), timeout)


def request_head(length: int, path: str = "/llm/v1/messages") -> bytes:
    """The head of a request for a message whose body has `length` bytes."""
    lines = [f"POST {path} HTTP/1.1", "host: x", f"content-length: {length}"]
    lines += [f"{name}: {value}" for name, value in HEADERS.items()]
    return "\r\n".join(lines).encode() + b"\r\n\r\n"


@contextmanager
def raw_request(base_url: str, body: Mapping[str, Any] | bytes, timeout: float = 30.0) -> Generator[socket.socket]:
    """Send a request for a message on its own socket. The client disconnects when the block is left."""
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    with connect(base_url, timeout) as peer:
        peer.sendall(request_head(len(content), f"{httpx.URL(base_url).path}/v1/messages") + content)
        yield peer


def receive_until(peer: socket.socket, mark: bytes) -> bytes:
    """Read until `mark` has arrived. Fails if the peer closes the connection before."""
    received = bytearray()
    while received.find(mark, -len(mark) - 65536) < 0:
        chunk = peer.recv(65536)
        assert chunk, bytes(received[-300:])
        received += chunk
    return bytes(received)


def raw_exchange(url: str, request: bytes, *, timeout: float = 30.0) -> bytes:
    """Send bytes, and read until the server closes the connection or is silent for `timeout` seconds."""
    with connect(url, timeout) as peer:
        peer.sendall(request)
        received = b""
        while True:
            try:
                chunk = peer.recv(65536)
            except TimeoutError:
                return received
            if not chunk:
                return received
            received += chunk

"""A proxy that rejects and records every request, so that a client cannot reach the internet."""

from __future__ import annotations

import threading
from collections.abc import Generator
from contextlib import contextmanager, suppress
from socketserver import StreamRequestHandler, ThreadingTCPServer
from typing import Any


class BlockedInternet:
    """The proxy to give to a client, and what the client requested from it."""

    def __init__(self, proxy: str) -> None:
        self.proxy = proxy
        self.requests: list[str] = []
        """The first line of each request."""


@contextmanager
def blocked_internet() -> Generator[BlockedInternet]:
    """Run the proxy on a port of 127.0.0.1."""
    server: Any = ThreadingTCPServer(("127.0.0.1", 0), _Rejecting)
    server.daemon_threads = True
    server.internet = internet = BlockedInternet(f"http://127.0.0.1:{server.server_address[1]}")
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield internet
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Rejecting(StreamRequestHandler):
    def handle(self) -> None:
        server: Any = self.server
        server.internet.requests.append(self.rfile.readline().decode("latin-1").strip())
        with suppress(OSError):
            self.wfile.write(b"HTTP/1.1 403 Forbidden\r\ncontent-length: 0\r\nconnection: close\r\n\r\n")

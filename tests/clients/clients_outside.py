"""The rest of the world: a proxy that lets nobody out, and remembers who asked."""

from __future__ import annotations

import threading
from collections.abc import Generator
from contextlib import contextmanager, suppress
from socketserver import StreamRequestHandler, ThreadingTCPServer
from typing import Any


class Outside:
    """Where a client is sent that wants to leave the machine."""

    def __init__(self, proxy: str) -> None:
        self.proxy = proxy
        self.asked: list[str] = []
        """The first line of each request."""


@contextmanager
def nothing_outside() -> Generator[Outside]:
    """Refuse whatever comes, on a port of 127.0.0.1."""
    server: Any = ThreadingTCPServer(("127.0.0.1", 0), _Refusal)
    server.daemon_threads = True
    server.outside = outside = Outside(f"http://127.0.0.1:{server.server_address[1]}")
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield outside
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Refusal(StreamRequestHandler):
    def handle(self) -> None:
        server: Any = self.server
        server.outside.asked.append(self.rfile.readline().decode("latin-1").strip())
        with suppress(OSError):
            self.wfile.write(b"HTTP/1.1 403 Forbidden\r\ncontent-length: 0\r\nconnection: close\r\n\r\n")

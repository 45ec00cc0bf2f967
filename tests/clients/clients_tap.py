"""A pass-through on the wire: bytes go on as they come, and the requests among them are kept."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from socketserver import BaseRequestHandler, ThreadingTCPServer
from typing import Any
from urllib.parse import urlsplit

from httptools import HttpRequestParser

from bud_asgi.testing import Received

HOST = "127.0.0.1"


class Tap:
    """What a client has sent, byte for byte, on its way to a server. `base_url` is for the client."""

    def __init__(self, base_url: str) -> None:
        self.base_url = base_url
        self.requests: list[Received] = []
        """The whole requests, in the order in which they ended."""

    def sent(self, method: bytes, path: bytes) -> list[Received]:
        """The requests to a path; what stands before `/v1` or `/api` in it is the mount's."""
        return [one for one in self.requests if one.method == method and one.path.endswith(path)]


class _Reader:
    """Reads one connection's requests (the callbacks of httptools)."""

    def __init__(self, requests: list[Received]) -> None:
        self._requests = requests
        self._parser = HttpRequestParser(self)
        self._now = Received(number=0, connection=0, method=b"", target=b"")

    def feed(self, data: bytes) -> None:
        self._parser.feed_data(data)

    def on_message_begin(self) -> None:
        self._now = Received(number=len(self._requests) + 1, connection=0, method=b"", target=b"")

    def on_url(self, url: bytes) -> None:
        self._now.target += url

    def on_header(self, name: bytes, value: bytes) -> None:
        self._now.headers.append((name, value))

    def on_body(self, body: bytes) -> None:
        self._now.body += body

    def on_message_complete(self) -> None:
        self._now.method = self._parser.get_method()
        self._now.complete = True
        self._requests.append(self._now)


@contextmanager
def tapped(url: str) -> Generator[Tap]:
    """Listen before the server at `url`, whose path is kept."""
    to = urlsplit(url)
    server: Any = ThreadingTCPServer((HOST, 0), _Connection)
    server.daemon_threads = True
    server.to = (to.hostname, to.port)
    server.tap = tap = Tap(f"http://{HOST}:{server.server_address[1]}{to.path}")
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield tap
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Connection(BaseRequestHandler):
    def handle(self) -> None:
        server: Any = self.server
        client: socket.socket = self.request
        with socket.create_connection(server.to) as upstream:
            down = threading.Thread(target=_pump, args=(upstream, client), daemon=True)
            down.start()
            _pump(client, upstream, _Reader(server.tap.requests).feed)
            down.join()


def _pump(source: socket.socket, sink: socket.socket, note: Callable[[bytes], None] | None = None) -> None:
    """Hand on until the source ends, then end the sink's input."""
    with suppress(OSError):
        while data := source.recv(65536):
            if note:
                note(data)
            sink.sendall(data)
    with suppress(OSError):
        sink.shutdown(socket.SHUT_WR)

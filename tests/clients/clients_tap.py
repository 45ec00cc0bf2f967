"""A TCP proxy that forwards all bytes unchanged and records the requests."""

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
    """The requests that passed, byte for byte. `base_url` is for the client."""

    def __init__(self, base_url: str) -> None:
        self.base_url = base_url
        self.requests: list[Received] = []
        """The complete requests, in the order of their last bytes."""

    def sent(self, method: bytes, path: bytes) -> list[Received]:
        """The requests whose path ends with `path`: the prefix of the mount is left out."""
        return [request for request in self.requests if request.method == method and request.path.endswith(path)]


class _Reader:
    """Parses the requests of one connection, with the callbacks of httptools."""

    def __init__(self, requests: list[Received]) -> None:
        self._requests = requests
        self._parser = HttpRequestParser(self)
        self._current = Received(number=0, connection=0, method=b"", target=b"")

    def feed(self, data: bytes) -> None:
        self._parser.feed_data(data)

    def on_message_begin(self) -> None:
        self._current = Received(number=len(self._requests) + 1, connection=0, method=b"", target=b"")

    def on_url(self, url: bytes) -> None:
        self._current.target += url

    def on_header(self, name: bytes, value: bytes) -> None:
        self._current.headers.append((name, value))

    def on_body(self, body: bytes) -> None:
        self._current.body += body

    def on_message_complete(self) -> None:
        self._current.method = self._parser.get_method()
        self._current.complete = True
        self._requests.append(self._current)


@contextmanager
def tapped(url: str) -> Generator[Tap]:
    """Forward to the server at `url`, and keep the path of the URL."""
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
            replies = threading.Thread(target=_pump, args=(upstream, client), daemon=True)
            replies.start()
            _pump(client, upstream, _Reader(server.tap.requests).feed)
            replies.join()


def _pump(source: socket.socket, sink: socket.socket, on_data: Callable[[bytes], None] | None = None) -> None:
    """Forward until the source ends, then end the sink's input."""
    with suppress(OSError):
        while data := source.recv(65536):
            if on_data:
                on_data(data)
            sink.sendall(data)
    with suppress(OSError):
        sink.shutdown(socket.SHUT_WR)

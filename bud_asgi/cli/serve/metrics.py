"""The metrics of `serve`, on a port of their own: of this process, or of all workers."""

from __future__ import annotations

import logging
import os
import tempfile
from collections.abc import Generator, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from bud_asgi.app import MessagesApp
from bud_asgi.cli.listening import listening_problem
from bud_asgi.cli.settings import EXIT_NOT_STARTED, fail
from bud_asgi.config import Problem
from bud_asgi.extras import install_command, is_installed

if TYPE_CHECKING:
    from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

    from prometheus_client import CollectorRegistry

_OPTION = "--metrics-port"
_log = logging.getLogger("bud_asgi")


class MetricsAddress(msgspec.Struct, frozen=True):
    """Where metrics are served. With port 0 the system chooses one."""

    host: str
    port: int


def check_metrics(address: MetricsAddress | None) -> Iterator[Problem]:
    """Check the option, before anything is started."""
    if address is not None and not is_installed("prometheus_client"):
        yield Problem("", _OPTION, f"needs prometheus_client, which is not installed: {install_command('prometheus')}")


@contextmanager
def serve_metrics(messages: MessagesApp, address: MetricsAddress | None) -> Generator[None]:
    """Serve the metrics of an app in this process until the end of the block. Exits if it cannot listen."""
    if address is None:
        yield
        return
    with _listening(messages.metrics().registry, address):
        yield


@contextmanager
def serve_worker_metrics(address: MetricsAddress | None) -> Generator[None]:
    """Serve those of the workers that are started in the block: they share a temporary folder. Exits as well."""
    if address is None:
        yield
        return
    from prometheus_client import CollectorRegistry  # noqa: PLC0415 - optional

    from bud_asgi.telemetry.prometheus import SHARED_DIRECTORY, SharedMetrics  # noqa: PLC0415

    with tempfile.TemporaryDirectory(prefix="bud_asgi-metrics-") as directory:
        registry = CollectorRegistry()
        registry.register(SharedMetrics(Path(directory)))
        with _listening(registry, address):
            os.environ[SHARED_DIRECTORY] = directory
            yield


@contextmanager
def _listening(registry: CollectorRegistry, address: MetricsAddress) -> Generator[None]:
    """Answer in a thread: a scrape also works while the event loop is busy."""
    from prometheus_client import start_http_server  # noqa: PLC0415 - optional

    try:
        server, thread = start_http_server(address.port, address.host, registry)
    except OSError as error:
        fail(listening_problem(f"{_OPTION} {address.host}:{address.port}", error), EXIT_NOT_STARTED)
    if app := server.get_app():
        server.set_app(_for_any_accept(app))
    host = f"[{address.host}]" if ":" in address.host else address.host
    _log.info("metrics on http://%s:%d/metrics", host, server.server_port)
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def _for_any_accept(app: WSGIApplication) -> WSGIApplication:
    """Scrapes whose `Accept` cannot be read are answered as those without one, not with a 500."""
    from bud_asgi.telemetry.prometheus.exposition import readable_accept  # noqa: PLC0415 - optional

    def answer(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        environ["HTTP_ACCEPT"] = readable_accept(environ.get("HTTP_ACCEPT", ""))
        return app(environ, start_response)

    return answer

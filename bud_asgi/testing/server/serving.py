"""Serves an ASGI app with uvicorn on loopback from synchronous code, for tests and the demo."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Generator
from contextlib import contextmanager

import uvicorn
from starlette.types import ASGIApp


@contextmanager
def serving(app: ASGIApp, *, port: int = 0, **options: object) -> Generator[str]:
    """Serve `app` in a thread with its own event loop; yields its base URL, `http://127.0.0.1:PORT`.

    `port` 0 takes a free port. `options` are those of `uvicorn.Config`. Leaving the block shuts the server down as a
    signal would, and raises the exception that ended its thread, if any. Needs the extra `server`.
    """
    listener = socket.create_server(("127.0.0.1", port))
    config = uvicorn.Config(app, **{"log_level": "warning", "timeout_graceful_shutdown": 5, **options})  # pyright: ignore[reportArgumentType] (they are uvicorn's)
    server = uvicorn.Server(config)
    errors: list[BaseException] = []

    def run() -> None:
        try:
            with asyncio.Runner(loop_factory=config.get_loop_factory()) as runner:
                runner.run(server.serve([listener]))
        except BaseException as error:  # noqa: BLE001 (raised again when the thread is joined)
            errors.append(error)

    thread = threading.Thread(target=run, name="bud_asgi serving", daemon=True)
    thread.start()
    try:
        _wait_until_started(server, thread, errors)
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join()
        listener.close()
    if errors:
        raise errors[0]


def _wait_until_started(server: uvicorn.Server, thread: threading.Thread, errors: list[BaseException]) -> None:
    while not server.started:
        thread.join(0.01)
        if not thread.is_alive():
            raise RuntimeError("the server did not start") from (errors[0] if errors else None)

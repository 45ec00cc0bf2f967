"""An ASGI app served by a real uvicorn on loopback, from synchronous code: for tests and the demo."""

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
    """Serve `app` in a thread with an event loop of its own; yields its base URL, `http://127.0.0.1:PORT`.

    `port` 0 takes a free one. `options` are uvicorn's. Leaving the block shuts the server down as a signal would, and
    raises what its thread died of. Needs the extra `server`.
    """
    listener = socket.create_server(("127.0.0.1", port))
    config = uvicorn.Config(app, **{"log_level": "warning", "timeout_graceful_shutdown": 5, **options})  # pyright: ignore[reportArgumentType] - uvicorn's own, by name
    server = uvicorn.Server(config)
    died: list[BaseException] = []

    def run() -> None:
        try:
            with asyncio.Runner(loop_factory=config.get_loop_factory()) as runner:
                runner.run(server.serve([listener]))
        except BaseException as error:  # noqa: BLE001 - the end of a thread: raised again where it is joined
            died.append(error)

    thread = threading.Thread(target=run, name="bud_asgi serving", daemon=True)
    thread.start()
    try:
        _wait_until_started(server, thread, died)
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join()
        listener.close()
    if died:
        raise died[0]


def _wait_until_started(server: uvicorn.Server, thread: threading.Thread, died: list[BaseException]) -> None:
    while not server.started:
        thread.join(0.01)
        if not thread.is_alive():
            raise RuntimeError("the server did not start") from (died[0] if died else None)
